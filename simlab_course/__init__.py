"""What the lessons use beside simlab: widgets and figures."""
