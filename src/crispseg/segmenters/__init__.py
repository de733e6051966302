"""An image in, a class for every pixel out: any network, any size, bounded memory."""
