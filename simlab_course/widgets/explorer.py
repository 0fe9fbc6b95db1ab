"""Controls over one image, which a pure function draws from their values.

Nothing slow is computed in a widget: tables, maps and features come from outside. There is no
Output area (batch runs hang in it, and it swallows errors): a control that moves sets an <img> with
its text alternative.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import ipywidgets
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from simlab.stats import require_columns, require_seeds_alone
from simlab_course.style import png

Drawing = tuple[Figure, str]  # a figure and its text alternative
LOOK: dict[str, Any] = {"style": {"description_width": "9em"}, "layout": {"width": "26em"}}


class Explorer(ipywidgets.VBox):
    """Controls above one image.

    Attributes:
        draw: A pure function of the controls' values by name, to (Figure, text alternative).
        controls: The widgets by name.
        state: Their values.
        image: The HTML with the image.
        figure: What was drawn last; `alt` is its text alternative, `png` the image in base64.
    """

    def __init__(self, draw: Callable[..., Drawing], **controls: ipywidgets.Widget):
        self.draw = draw
        self.controls = controls
        self.image = ipywidgets.HTML()
        self.figure = Figure()
        self.alt = ""
        self.png = ""
        row = ipywidgets.Box([*controls.values()], layout={"flex_flow": "row wrap"})
        super().__init__([row, self.image])
        for control in controls.values():
            control.observe(self._on_change, "value")
        if controls:
            self.redraw()

    @property
    def state(self) -> dict[str, Any]:
        """The controls' values by name."""
        return {name: control.value for name, control in self.controls.items()}

    def move(self, **values: Any) -> Self:
        """Set several controls and draw once, so that no half-way state is shown.

        Args:
            **values: The controls' new values by name.

        Returns:
            The explorer, which a notebook may show in the state that makes its point.
        """
        for name in values:
            self.controls[name].unobserve(self._on_change, "value")
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            for name in values:
                self.controls[name].observe(self._on_change, "value")
        self.redraw()
        return self

    def _on_change(self, change: Any) -> None:
        self.redraw()

    def redraw(self, **values: Any) -> None:
        """Draw the figure of the controls' values, and of further ones."""
        try:
            self.figure, self.alt = self.draw(**self.state, **values)
            self.png = png(self.figure)
        except Exception as error:  # a kernel hides what an observer raises
            self.image.value = f'<p role="alert">{html.escape(f"{error!r}")}</p>'
            raise
        alt = html.escape(self.alt)
        source = f"data:image/png;base64,{self.png}"
        style = "display: block; max-width: 100%"
        self.image.value = f'<img alt="{alt}" src="{source}" style="{style}">'

    def _ipython_display_(self) -> None:
        """Display one output for both: what shows no widget shows the image and its alternative."""
        from IPython.display import display

        # what a front end takes for a widget, by the protocol's version 2: of ipywidgets 7 and 8
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        data: dict[str, Any] = {"application/vnd.jupyter.widget-view+json": view}
        if self.png:
            data |= {"text/plain": self.alt, "image/png": self.png}
        display(data, raw=True, metadata={"image/png": {"alt": self.alt}})


def slider(
    name: str, value: Any, low: float = 0.0, high: float = 1.0, step: float = 0.1
) -> ipywidgets.Widget:
    """Make a slider for whole numbers, for others, or for a pair; wide enough for the value."""
    if isinstance(value, tuple):
        make = ipywidgets.FloatRangeSlider
    elif isinstance(step, int):
        make = ipywidgets.IntSlider
    else:
        make = ipywidgets.FloatSlider
    low = min(low, np.min(value))
    high = max(high, np.max(value))
    description = name.replace("_", " ")
    return make(value=value, min=low, max=high, step=step, description=description, **LOOK)


def steps(name: str, options: Sequence[Any], index: int = 0) -> ipywidgets.Widget:
    """Make a slider over some values, or (text, value) pairs."""
    return ipywidgets.SelectionSlider(options=options, index=index, description=name, **LOOK)


def buttons(name: str, options: Iterable[Any]) -> ipywidgets.Widget:
    """Make buttons of which one is pressed.

    Not a drop-down list: JupyterLab takes its arrow keys to change the cell.
    """
    pairs = [(as_words(option), option) for option in options]
    description = name.replace("_", "-")
    return ipywidgets.ToggleButtons(options=pairs, description=description, style=LOOK["style"])


def as_words(value: Any) -> str:
    """Write a control's value for people: on and off for booleans."""
    if isinstance(value, bool | np.bool_):
        return "on" if value else "off"
    return str(value).replace("_", " ")


def require_table(table: pd.DataFrame, columns: Iterable[str], keys: list[str]) -> None:
    """Check that a table has these columns, and rows; those of equal keys differ in the seed alone.

    Raises:
        ValueError: It does not.
    """
    require_columns(table, *columns)
    if not len(table):
        raise ValueError("the table has no rows")
    require_seeds_alone(table, keys, "filter the table")
