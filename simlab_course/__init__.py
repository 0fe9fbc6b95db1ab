"""What the lessons use beside simlab: figures with text alternatives, and widgets.

- `style`: how figures look, and how they get into a notebook.
- `figures`: pure functions from results to a figure.
- `inside`: what a method has learned inside: attention, reconstructions, terms, spectra.
- `widgets`: figures with controls.
- `tables`: where the tables of precomputed runs are; `encoders`: some of these runs' encoders.
- `packages`: what a notebook's first cell installs where it is missing, in Colab for instance.
"""
