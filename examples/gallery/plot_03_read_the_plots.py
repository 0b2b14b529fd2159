"""
Read the plots of the report
============================

`diversify diagnose` and `dv.render_html` make one HTML page. This example cuts its drawings out of the page and says how
to read each one.
"""

import re

import diversify as dv

train, heldout, head = dv.make_embeddings((600, 300, 150, 80, 40, 20, 12), num_features=32, spread=0.8)
names = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu"]
diagnosis = dv.diagnose(train, heldout, head=head, class_names=names)
page = dv.render_html(diagnosis)
drawings = re.findall(r"<svg viewBox.*?</svg>", page, flags=re.DOTALL)
print(f"{len(drawings)} drawings")

# %%
# **Is it only the number of images?** Each class's held-out recall, with its 95% interval, against its training images on
# a log scale. The dashed line is what class size alone predicts. A class far below the line has a problem beyond its size;
# a class near the line may simply need more images. Orange diamonds are fragile classes: their whole interval lies below
# the mean.

drawing = drawings[0]

# %%
# **And the magnitude gap?** How much weaker a class's strongest features are on unseen images than on training images.
# 0 means that they match. If the gap grows toward the small classes, the network has memorised them.

drawing = drawings[1]

# %%
# The page has more: which classes share which features, the diversity of each class at equal sample size, the neighbours
# of its images, and what a better head would gain. With images at hand, `dv.choose_exhibits` and `dv.take_pictures` add
# typical images, outliers and errors of the fragile classes. A whole page: the sample report in the five-minute start.

drawing = drawings[2]

# %%
# The last drawing of the page:

drawing = drawings[-1]
