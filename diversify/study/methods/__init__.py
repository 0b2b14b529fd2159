"""The methods that a study finds by name.

`METHODS` lists them; `+images`, `+mix` and `+head` may follow any name. A method is a record of what it searches, what it
puts into the slots of the training loop, and what it does to the head afterwards.
"""

from .catalogue import METHODS as METHODS
from .catalogue import method_named as method_named
from .heads import between as between
from .plans import drawn_plan as drawn_plan
from .plans import from_plan as from_plan
from .plans import image_plan as image_plan
from .suffixes import SUFFIXES as SUFFIXES
from .suffixes import with_head as with_head
from .suffixes import with_images as with_images
from .suffixes import with_mix as with_mix
from .suffixes import with_suffixes as with_suffixes
