"""This package takes an experiment to its results.

An experiment, made ready:

    inheritance   completes a config by the model and the data of the run that it starts from
    identity      loads the data, and tells runs by their contents
    prepare       makes all that a command works with, once: a `Prepared`
    trainable     makes what is trained: the model itself, or with quantizers or noise

The runs before a run:

    lineage       follows a run back to the runs that it started from
    start_check   checks that a run can start from another
    warmup        says how a run's attention changes from that of its start
    initial       loads the parameters that a run starts from
    teacher       finds the model that a run learns from
    importing     makes a run of an existing checkpoint

Training, and what follows:

    backend       chooses the attention backend of a run, which the run keeps
    train         trains a `Prepared` in a folder
    run           restores a run at one of its checkpoints: a `TrainedRun`
    quantize, measure, sensitivity, analyze, export, compare
"""
