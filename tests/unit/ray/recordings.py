"""Recordings without anything in them."""

import numpy as np


def silence(seconds):
    return np.zeros(round(seconds * 16_000), np.float32)
