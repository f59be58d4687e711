"""Entry points for clusters: `python jobs/train.py RECIPE KEY=VALUE…` on the head, `python -m jobs.train …` as a job.

Each is a `reid-ray` command, with the same arguments, on the cluster that the machine belongs to; `entry.py` says what
differs.
"""
