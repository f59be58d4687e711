"""Extract features of many images: `python jobs/extract.py RUN --out FOLDER …`, as `reid-ray extract`."""

from reid_ray.jobs.entry import run

if __name__ == "__main__":
    run("extract")
