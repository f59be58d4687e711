"""Seeds of random cases that hypothesis draws."""

from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
