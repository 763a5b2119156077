"""The page as it is served: to whom, what of, and from what it is read."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from foreign import honest_run
from starlette.testclient import TestClient

from agentkd.artifacts.feed import Began, FeedWriter, Said
from agentkd.artifacts.journal import Journal
from agentkd.artifacts.run_folder import RunFolder
from agentkd.cli.watching import must_be_installed, watched
from agentkd.errors import AgentKDError, ArtifactError, ConfigError
from agentkd.report.packing import write_bundle
from agentkd.watch import serving
from agentkd.watch.app import PARTS, make_app
from agentkd.watch.entrance import new_token
from agentkd.watch.serving import opened
from agentkd.watch.watching import Watching

TOKEN = "t" * 32
HERE = "http://127.0.0.1:8000"
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = honest_run(tmp_path_factory.mktemp("honest") / "run")
    folder.logs.mkdir()
    (folder.logs / "coordinator.log").write_text("it began\n\x1b[2Jit went on\n")
    return folder


@pytest.fixture(scope="module")
def client(honest: RunFolder) -> Iterator[TestClient]:
    with TestClient(make_app(Watching(honest), TOKEN), base_url=HERE) as made:
        yield made


def settled(folder: RunFolder, *others: RunFolder) -> Watching:
    watching = Watching(folder, others)
    watching.look()
    watching.judge()
    watching.compare()
    watching.look()
    return watching


@pytest.mark.parametrize(
    "path", ["", "/", "/x", f"/{TOKEN}", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", "/%00/", "/é/", f"//{TOKEN}/", "/parts/page.js"]
)
def test_nobody_is_let_in_without_the_token(client: TestClient, path: str) -> None:
    answer = client.get(HERE + path, follow_redirects=False)
    assert answer.status_code == 404 and "honest" not in answer.text and TOKEN not in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "", "10.0.0.1", "[::2]"]
)
def test_nobody_is_let_in_who_asks_for_another_host(client: TestClient, host: str) -> None:
    assert client.get(f"{HERE}/{TOKEN}/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1234", "localhost", "localhost:9"])
def test_whoever_knows_the_token_is_let_in_by_each_name_of_this_host(client: TestClient, host: str) -> None:
    answer = client.get(f"{HERE}/{TOKEN}/", headers={"host": host})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")


def test_every_answer_forbids_what_the_page_does_not_need(client: TestClient) -> None:
    for path in (f"/{TOKEN}/", f"/{TOKEN}/parts/page.js", f"/{TOKEN}/state.json", f"/{TOKEN}/nothing", "/nobody/"):
        headers = client.get(HERE + path).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'" == policy["style-src"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store" and "access-control-allow-origin" not in headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_can_be_asked_for_but_to_read(client: TestClient, method: str) -> None:
    for path in ("", "events", "log?name=coordinator", "parts/page.js"):
        assert client.request(method, f"{HERE}/{TOKEN}/{path}").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "parts/../app.py",
        "parts/..%2fapp.py",
        "parts/%2e%2e/app.py",
        "parts/page.html.jinja",
        "parts//etc/passwd",
        "parts/",
        "journal.sqlite",
        "../journal.sqlite",
        "log?name=../lock",
        "log?name=/etc/passwd",
        "log?name=..%2fjournal.sqlite",
        "log?name=coordinator.log",
        "log?name=",
        "log",
        "pictures.png",
    ],
)
def test_nothing_is_handed_out_but_what_belongs_to_the_page(client: TestClient, path: str) -> None:
    assert client.get(f"{HERE}/{TOKEN}/{path}").status_code == 404


def test_a_log_is_shown_to_its_end_and_cannot_act(client: TestClient) -> None:
    assert client.get(f"{HERE}/{TOKEN}/logs").json() == ["coordinator"]
    assert client.get(f"{HERE}/{TOKEN}/log?name=coordinator").text == "it began\n\\x1b[2Jit went on\n"


def test_a_log_that_is_a_link_or_a_pipe_is_not_read(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    place.logs.mkdir()
    (place.logs / "secret.log").symlink_to("/etc/hostname")
    os.mkfifo(place.logs / "pipe.log")
    watching = Watching(place)
    assert watching.logs() == []
    for name in ("secret", "pipe"):
        with pytest.raises(ArtifactError):
            watching.log_tail(name)


def test_every_part_of_the_page_is_there_and_the_page_asks_for_nothing_else(client: TestClient) -> None:
    page = client.get(f"{HERE}/{TOKEN}/").text
    for name, kind in PARTS.items():
        answer = client.get(f"{HERE}/{TOKEN}/parts/{name}")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
    named = set(re.findall(r'(?:href|src)="([^"#]+)"', page))
    for script in (name for name in PARTS if name.endswith(".js")):
        text = files("agentkd.watch").joinpath("page", script).read_text(encoding="utf-8")
        named |= {f"parts/{one}" for one in re.findall(r'from "\./([^"]+)"', text)}
        assert "http" not in re.sub(r'"http://www.w3.org/2000/svg"', "", text) and "innerHTML" not in text and "eval(" not in text
    assert named == {f"parts/{name}" for name in PARTS}
    assert "style=" not in page and "onclick" not in page and "<script>" not in page


def test_the_text_of_a_place_is_a_text(tmp_path: Path) -> None:
    strange = tmp_path / "<script>alert(1)"
    strange.mkdir()
    with TestClient(make_app(Watching(RunFolder(strange)), TOKEN), base_url=HERE) as client:
        page = client.get(f"{HERE}/{TOKEN}/").text
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_tokens_are_long_and_no_two_are_the_same() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100 and all(re.fullmatch(r"[\w-]{32}", token) for token in tokens)


def test_a_page_that_is_opened_is_sent_the_whole_and_one_that_comes_back_what_came_since(honest: RunFolder) -> None:
    app = make_app(Watching(honest), TOKEN)
    with TestClient(app, base_url=HERE) as client:
        stream = app.state.stream
        deadline = time.monotonic() + DEADLINE_S
        while "no_table" not in client.get(f"{HERE}/{TOKEN}/state.json").json()["put"].get("run", {}):
            assert time.monotonic() < deadline
        first = events_of(client, stream)
        assert first[0][1] == "whole" and {item["label"] for item in first[0][2]["put"]["tasks"].values()} == {
            "a training",
            "a lesson",
        }
        number = first[0][0]
        stream.watching.board.put("run", "x", 1)
        stream.publish()
        then = events_of(client, stream, known=number)
        assert then[0][1] == "change" and then[0][2]["put"]["run"]["x"] == 1
        assert events_of(client, stream, known="another-3")[0][1] == "whole"
        assert events_of(client, stream, known="x\n")[0][1] == "whole"


def events_of(client: TestClient, stream: object, known: str = "") -> list[tuple[str, str, dict[str, object]]]:
    """The first event of a stream, by the generator that serves it: the client reads answers only when they have ended."""
    follow = stream.follow(known)  # type: ignore[attr-defined]

    async def first() -> str:
        said = ""
        async for text in follow:
            if "data:" in text:
                said = text
                break
        await follow.aclose()
        return said

    assert client.portal is not None
    told = client.portal.call(first)
    fields = dict(line.partition(": ")[::2] for line in told.strip().splitlines())
    return [(fields["id"], fields["event"], json.loads(fields["data"]))]


def test_there_are_no_more_streams_than_can_be_served(honest: RunFolder) -> None:
    app = make_app(Watching(honest), TOKEN)
    with TestClient(app, base_url=HERE) as client:
        app.state.stream.num_open = 32
        assert client.get(f"{HERE}/{TOKEN}/events").status_code == 503


# What a page is read from.


def test_an_empty_folder_shows_a_page_and_a_run_that_begins_there_appears(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(tmp_path / "run")
    place.place.mkdir()
    watching = settled(place)
    assert watching.board.get("run", "condition") == "empty" and not watching.board.names("tasks")
    shutil.copyfile(honest.journal, place.journal)
    watching.look()
    assert watching.board.get("run", "condition") == "at rest" and len(watching.board.names("tasks")) == 2
    assert watching.board.get("run", "name") == "honest"


def test_what_is_committed_meanwhile_is_read_and_nothing_twice(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(tmp_path)
    shutil.copyfile(honest.journal, place.journal)
    watching = settled(place)
    with Journal(honest.journal, read_only=True) as journal:
        records = list(journal.records())
    other = records[0].task.replace(seed=77)
    with Journal(place.journal) as journal:
        journal.begin_sitting({})
        journal.commit(type(records[0])(other, records[0].result, "agent-1", 1, "search of unet: trial 3"))
        watching.look()
        assert watching.board.get("run", "recorded")["tasks"] == 3
        watching.look()
    assert watching.board.get("run", "recorded")["tasks"] == 3
    item = watching.board.get("tasks", other.key[:16])
    assert (item["stage"], item["label"]) == ("search", "trial 3")


def test_another_run_in_the_place_of_one_is_shown_alone(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(tmp_path)
    shutil.copyfile(honest.journal, place.journal)
    watching = settled(place)
    with Journal(honest.journal, read_only=True) as journal:
        record = next(journal.records())
    place.journal.unlink()
    with Journal(place.journal) as journal:
        journal.begin_sitting({})
        for seed in range(1, 4):
            journal.commit(type(record)(record.task.replace(seed=seed), record.result, "agent-1", 1, f"another {seed}"))
    watching.look()
    labels = [watching.board.get("tasks", name)["label"] for name in watching.board.names("tasks")]
    assert labels == ["another 1", "another 2", "another 3"]
    assert watching.board.get("run", "recorded")["tasks"] == 3


def test_the_folder_of_a_community_shows_its_tasks_and_says_why_there_is_no_table(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(tmp_path)
    with Journal(honest.journal, read_only=True) as journal:
        records = list(journal.records())
    with Journal(place.journal) as journal:
        journal.begin_sitting({})
        journal.commit(*records)
    watching = settled(place)
    assert len(watching.board.names("tasks")) == 2 and "no run of an experiment" in watching.board.get("run", "no_table")
    assert watching.board.get("run", "verdict") is None and watching.board.get("run", "condition") == "at rest"


def test_a_damaged_journal_is_said_to_be_and_read_once_it_is_mended(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(tmp_path)
    place.journal.write_bytes(b"no journal" * 1000)
    watching = settled(place)
    assert "is damaged" in watching.board.get("run", "note")
    shutil.copyfile(honest.journal, place.journal)
    os.utime(place.journal, ns=(1, 1))
    watching.look()
    assert len(watching.board.names("tasks")) == 2


def test_a_disk_that_fails_for_a_moment_is_said_and_looked_at_again(
    tmp_path: Path, honest: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = Watching(RunFolder(honest.place))
    with monkeypatch.context() as patch:

        def failing(self: object) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr("agentkd.artifacts.feed.FeedReader.read", failing)
        watching.look()
    assert "Input/output error" in watching.board.get("run", "fault")
    watching.look()
    assert watching.board.get("run", "fault") == ""
    assert len(watching.board.names("tasks")) == 2 and watching.board.get("run", "condition") == "at rest"


def test_nothing_is_written_into_the_folder(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(shutil.copytree(honest.place, tmp_path / "run", symlinks=True))
    before = {path: path.lstat().st_mtime_ns for path in place.place.rglob("*") if path.is_file()}
    settled(place)
    after = {path: path.lstat().st_mtime_ns for path in place.place.rglob("*") if path.is_file()}
    assert {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)} <= {
        place.journal.with_name(f"{place.journal.name}{end}") for end in ("-shm", "-wal")
    }


def test_runs_are_compared_and_one_that_cannot_be_read_is_said(tmp_path: Path, honest: RunFolder) -> None:
    watching = settled(honest, honest, RunFolder(tmp_path))
    shown = watching.board.get("others", str(honest.place))
    assert [size for size, _ in shown["points"]] == [0, 0] and shown["name"] == "honest"
    assert "is not a run folder" in watching.board.get("others", str(tmp_path))["note"]


def test_a_bundle_is_looked_through_and_shown_and_nothing_is_left_of_it(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(shutil.copytree(honest.place, tmp_path / "run", symlinks=True))
    shutil.rmtree(place.logs)
    bundle = tmp_path / "made.zip"
    write_bundle(place, bundle)
    with opened(bundle) as folder:
        inside = folder.place
        assert len(settled(folder).board.names("tasks")) == 2
    assert not inside.exists()
    bundle.write_bytes(bundle.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="is damaged"), opened(bundle):
        pass


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no run folder and no bundle"), opened(tmp_path / "nothing"):
        pass
    (tmp_path / "logs").symlink_to("/etc")
    with pytest.raises(ArtifactError, match="is a link"), opened(tmp_path):
        pass


def test_a_link_that_is_laid_later_is_not_followed(tmp_path: Path, honest: RunFolder) -> None:
    place = RunFolder(tmp_path / "run")
    place.place.mkdir()
    watching = settled(place)
    place.journal.symlink_to(honest.journal)
    place.feed.symlink_to(honest.experiment)
    watching.look()
    assert "a link" in watching.board.get("run", "note") and not watching.board.names("tasks")


def test_a_feed_is_heard_when_it_grows(tmp_path: Path) -> None:
    place = RunFolder(tmp_path)
    watching = settled(place)
    said = FeedWriter(
        place.feed, place.earlier_feed, lambda _: [Began(at="2026-01-02T03:04:05Z", clock=0, host="x", pid=1)], lambda _: None
    )
    said.add(Said(text="hello"))
    said.close()
    watching.look()
    assert [watching.board.get("said", name)["text"] for name in watching.board.names("said")] == ["hello"]


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with serving._listen(0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}"):
            serving.serve(tmp_path, (), port=port, on_ready=lambda address: None)


def test_without_the_extra_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkd.cli.watching.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'agentkd\[watch\]'"):
        must_be_installed()


def test_a_page_beside_a_run_that_cannot_be_served_is_said_before_the_run_begins(tmp_path: Path) -> None:
    with pytest.raises(AgentKDError, match="--watch"), watched(tmp_path / "nowhere"):
        pass
