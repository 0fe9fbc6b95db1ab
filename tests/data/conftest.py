"""Fixtures: the bundled datasets, a folder of torchvision's, and a machine without a network."""

import socket

import pytest
from data_images import write_fashion

from simlab.data import load_data


@pytest.fixture(scope="session")
def fashion():
    return load_data("fashion")


@pytest.fixture(scope="session")
def scattered():
    return load_data("fashion-scattered")


@pytest.fixture
def fashion_folder(tmp_path):
    """A folder with tiny files like Fashion-MNIST's, 20 training and 10 test images of 8 x 8."""
    write_fashion(tmp_path)
    return tmp_path


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach another computer fails, and is written down."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("the network is down")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts
