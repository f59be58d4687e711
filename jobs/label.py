"""Features to labels, or a sweep: `python jobs/label.py FEATURES --out FILE …`, as `reid-ray label`."""

from jobs.entry import run

if __name__ == "__main__":
    run("label")
