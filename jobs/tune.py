"""Search for settings, or resume a search: `python jobs/tune.py RECIPE …`, as `reid-ray tune`."""

from reid_ray.jobs.entry import run

if __name__ == "__main__":
    run("tune")
