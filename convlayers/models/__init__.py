"""Reference architectures, ready to train; one family a file."""

from .alexnet import alexnet
from .lenet import digits_cnn, lenet5, mnist_cnn
from .mobilenet import mobilenet_small, mobilenet_v2
from .resnet import resnet18, resnet20, resnet50
from .squeezenet import squeezenet
from .tcn import tcn
from .unet import unet
from .vgg import vgg11, vgg16, vgg_small

__all__ = [
    "alexnet",
    "digits_cnn",
    "lenet5",
    "mnist_cnn",
    "mobilenet_small",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet50",
    "squeezenet",
    "tcn",
    "unet",
    "vgg11",
    "vgg16",
    "vgg_small",
]
