"""The battery of experiments: the command is tools/agf_eval.py.

    cli.py             the command line and its help
    runs.py            a run: its plan, records that survive being killed, shards, Dask
    experiments.py     the table of experiments, which are in removal.py, masks.py, grid.py, label_free.py, others.py
    base.py            what every experiment is; a new one is a class and a row of the table
    metrics.py         what is measured: functions of arrays
    weights.py         randomised copies of a model file
    subject.py         methods, and a process's model, sessions and pictures
    pictures.py        pictures, labels and masks: what a folder or a CSV lists
    results.py         what a run writes; report.py makes the tables, plots and pages
    summary.py         one page over several experiments
"""
