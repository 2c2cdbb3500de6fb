"""Draws `curve.csv` into `curve.svg` beside it: python docs/embedded/plot.py (needs matplotlib).

`curve.csv` holds the `curve.csv` of each run, one below the other, with the run's name in front. Runs that began with
the same weights ("sixth a", "sixth b") begin at the same place.
"""

import csv
from itertools import groupby
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
SMOOTHED = 8  # reports

plt.rcParams["axes.prop_cycle"] = plt.cycler(color=plt.colormaps["tab20"].colors)  # there are more runs than ten

figure, (above, below) = plt.subplots(2, sharex=True, figsize=(8, 4.5), height_ratios=(3, 1), layout="constrained")
with (HERE / "curve.csv").open(newline="", encoding="utf-8") as file:
    runs = [(name, list(points)) for name, points in groupby(csv.DictReader(file), key=lambda point: point["run"])]
before = end = 0.0  # tokens, in millions
for number, (name, points) in enumerate(runs):
    if not number or name.split()[0] != runs[number - 1][0].split()[0]:
        before = end
    at = [before + float(point["tokens"]) / 1e6 for point in points]
    loss = [float(point["loss"]) for point in points]
    means = [sum(part) / len(part) for part in (loss[max(0, i - SMOOTHED) : i + 1] for i in range(len(loss)))]
    above.semilogy(at, loss, color="0.8")
    above.semilogy(at, means, label=name)
    below.plot(at, [float(point["learning_rate"]) for point in points])
    end = max(end, at[-1])
above.set_ylabel("loss (nats a token\nof the correction)")
above.legend(frameon=False, ncols=2, title=f"run, mean of {SMOOTHED} reports")
below.set_ylabel("AdamW's rate")
below.set_xlabel("tokens (millions)")
figure.savefig(HERE / "curve.svg")
