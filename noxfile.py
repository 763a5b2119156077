"""The unit tests with every Python that agentkd supports: ``make matrix``. Those that are not there are named and left out."""

import nox

nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Installs what ``constraints.txt`` pins and runs the unit and architecture tests."""
    session.install("-c", "constraints.txt", "torch")
    session.install("-c", "constraints.txt", "-e", "predict", "-e", ".[dev]")
    session.run("python", "-m", "pytest", "-q", "tests/unit", "tests/architecture", env={"OMP_NUM_THREADS": "1"})
