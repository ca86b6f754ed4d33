"""Reference architectures, ready to train; one family a file."""

from .lenet import digits_cnn, lenet5, mnist_cnn
from .mobilenet import mobilenet_small
from .resnet import resnet20
from .vgg import vgg_small

__all__ = ["digits_cnn", "lenet5", "mnist_cnn", "mobilenet_small", "resnet20", "vgg_small"]
