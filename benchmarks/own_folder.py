"""A study on image files of your own: change what stands in capitals, then

    diversify benchmark benchmarks/own_folder.py --out runs/own_folder.jsonl
    diversify report runs/own_folder.jsonl --out runs/own_folder

DIR holds one folder per class (`DIR/cat/1.jpg`), or `train` and `test` (and `val`, if you have one) with such folders in
each. A study reads test at its end, so there has to be one. A run that was stopped goes on with the same command; with
another protocol begin another file.
"""

from diversify.study.protocol import Protocol
from diversify.study.suites import THE_EIGHT

DIR = "DIR"  # the folder; a relative path is looked for where the command is run
RESIZE = None  # pixels of the shorter side, for example 256, where the files have several sizes
CROP = None  # pixels of the square in the middle of it, for example 224; images in one run have one size
MODEL = "torchvision:resnet18"  # trained from its start: any of `--model`, or package.module:function of your own
EPOCHS = 60  # of a final run; as many as your network needs until val no longer rises
TRIAL_EPOCHS = 30  # of a run of the search; None for as many
BATCH_SIZE = 64
TRIALS = 4  # per method, the same for all; the first has the published values, so that 1 is no search
SEEDS = (0, 1, 2)  # final runs per method; intervals need 2, p values 3

PROTOCOL = Protocol(
    suite="own_folder",
    data=f"folder:{DIR}",
    resize=RESIZE,
    crop=CROP,
    imbalance="none",  # the images as they are; exp:100 makes a long tail of balanced ones
    holdout=0.2,  # of train, to choose on, where there is no val; every class keeps one image at least
    model=MODEL,
    epochs=EPOCHS,
    trial_epochs=TRIAL_EPOCHS,
    batch_size=BATCH_SIZE,
    warmup_epochs=5,  # of a shorter run a third of its epochs
    precision="bf16",  # fp32 on a CPU without bfloat16 of its own
    learning_rate=(0.01, 0.05, 0.2),  # lowest, where the search begins, highest
    weight_decay=(1e-4, 5e-4, 2e-3),
    methods=THE_EIGHT,  # names from diversify.study.methods.METHODS, with +images, +mix and +head behind any of them
    trials=TRIALS,
    seeds=SEEDS,
    rungs=(),  # for example (10, 20): trials that are behind after so many epochs are stopped, by one rule for all
)
