"""`keras-attention train` that can be killed: `python train_command.py FOLDER ...`.

MobileNetV2 is a net that takes seconds. It prints "writing" and what is written
whenever a file is about to be complete, so that a test can kill it at a chosen moment.
"""

import os
import sys
import time

from support.command_line import small_net

from keras_attention import cli, models

WRITING_SECONDS = 0.05


def slow_replace(source, target, replace=os.replace):
    # Longer than it takes, so that a kill can come between writing and renaming.
    print("writing", target, flush=True)
    time.sleep(WRITING_SECONDS)
    replace(source, target)


if __name__ == "__main__":
    models.MobileNetV2 = small_net
    os.replace = slow_replace
    sys.argv[1:] = ["train", "--out", *sys.argv[1:]]
    cli.main()
