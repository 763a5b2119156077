"""The command line: reads options at the edge and calls the library. Every import that costs time is made where it is needed."""

from agentkd.cli import beginning, completing, deploying, looking, predicting, records, running, spaces, standing, watching
from agentkd.cli.app import app, main, summarize
from agentkd.cli.data import data_app
from agentkd.cli.keys import keys_app
from agentkd.cli.protocol import protocol_app

__all__ = ["app", "main"]

# In the order of the help.
for command in (
    running.run,
    running.demo,
    watching.watch,
    beginning.init,
    beginning.schema,
    standing.status,
    standing.ls,
    standing.show,
    standing.logs,
    looking.report,
    records.replay,
    records.verify,
    records.lineage,
    records.diff,
    records.bundle,
    records.unbundle,
    records.gc,
    deploying.export,
    deploying.cost,
    running.community,
    running.agent,
    looking.networks,
    spaces.space,
    looking.weights,
    looking.doctor,
    completing.completion,
):
    app.command("import" if command is records.unbundle else None)(command)
app.command(hidden=True)(running.visit)
app.command(hidden=True)(completing.complete_words)
HANDED_OVER = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
app.command(context_settings=HANDED_OVER)(predicting.predict)
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.add_typer(protocol_app, name="protocol")
summarize(app)
