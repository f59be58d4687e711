"""Submit a job to a cluster: `python jobs/submit.py RECIPE KEY=VALUE… --address URL`, as `reid-ray submit`."""

import sys

from reid_ray.cli import main

if __name__ == "__main__":
    main(["submit", *sys.argv[1:]])
