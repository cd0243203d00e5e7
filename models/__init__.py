"""Everything about the model; no Kafka in here."""

import os

# One BLAS thread: a sum must not depend on the number of cores, and idle BLAS threads spin on the cores that the model
# needs. Read when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
