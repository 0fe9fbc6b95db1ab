"""The page of a sweep's report: HTML that opens without a network."""

from html import escape
from typing import Any

import pandas as pd

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { border: 1px solid #bbb; padding: .2rem .6rem; text-align: right }
img { max-width: 100% }
pre { overflow-x: auto; background: #f4f4f4; padding: .6rem }
"""


def page_of(
    title: str,
    base: str,
    tables: dict[str, pd.DataFrame],
    configuration: dict[str, Any],
    commands: str,
) -> str:
    """Return the page.

    Args:
        title: Its heading.
        base: Words for what the differences are taken from.
        tables: `table`, `means` and `differences`.
        configuration: What configuration.json has.
        commands: What commands.sh has.
    """
    points = tables["table"]
    done = (points["status"] == "done").sum()
    means = tables["means"]
    lowest, highest = means["mean"].min(), means["mean"].max()
    alternative = (
        f"{title}: means from {lowest:.4g} to {highest:.4g}, over {means['n'].min()} seeds or "
        "more each; the numbers are in the table below."
    )
    versions = ", ".join(f"{name} {text}" for name, text in configuration["versions"].items())
    settings = {name: str(value) for name, value in configuration["defaults"].items()}
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head>
<body><main>
<h1>{escape(title)}</h1>
<p>{done} of {len(points)} points are done; <a href="table.csv">table.csv</a> has all of them.</p>
<img src="figure.png" alt="{escape(alternative)}">
<h2>Means over the seeds, with 95 % intervals</h2>
{_html(means)}
<h2>Paired differences from {escape(base)}</h2>
<p>Of the same seeds. <code>visible</code> is the true difference that as many seeds find in four
of five repetitions; <code>p_holm</code> is corrected for the number of rows.</p>
{_html(tables["differences"])}
<h2>Commands</h2>
<pre>{escape(commands)}</pre>
<h2>Configuration</h2>
<p>{escape(versions)}. The grid: <code>{escape(" ".join(configuration["grid"]))}</code>.
The defaults, which hold wherever the grid says nothing else:</p>
{pd.DataFrame({"default": settings}).to_html()}
</main></body>
</html>
"""


def _html(table: pd.DataFrame) -> str:
    if table.empty:
        return "<p>None: no two values share a seed.</p>"
    return table.to_html(index=False, float_format="{:.4g}".format)
