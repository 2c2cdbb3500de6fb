"""Draws a run's `curve.csv` into `curve.svg` beside it: python docs/embedded/plot.py (needs matplotlib)."""

import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SMOOTHED = 8  # reports

with (HERE / "curve.csv").open(newline="", encoding="utf-8") as file:
    points = list(csv.DictReader(file))
tokens, loss, rate = ([float(point[name]) for point in points] for name in ("tokens", "loss", "learning_rate"))
means = [sum(loss[max(0, i - SMOOTHED) : i + 1]) / len(loss[max(0, i - SMOOTHED) : i + 1]) for i in range(len(loss))]

figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 4.5), height_ratios=(3, 1), layout="constrained")
above.semilogy([t / 1e6 for t in tokens], loss, color="0.8", label="each report")
above.semilogy([t / 1e6 for t in tokens], means, label=f"mean of {SMOOTHED}")
above.set_ylabel("loss (nats a token\nof the correction)")
above.legend(frameon=False)
below.plot([t / 1e6 for t in tokens], rate)
below.set_ylabel("AdamW's rate")
below.set_xlabel("tokens (millions)")
figure.savefig(HERE / "curve.svg")
