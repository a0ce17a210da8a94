"""Everything about images and masks, one idea a file.

    sample        one annotated image, and a list of them
    images        reading and writing an image file
    readers       folders and files of images with masks, and the data sets of the paper
    masks         what the numbers in a mask mean, and every way in which they can be wrong
    splits        what to train on and what to hold out
    synthetic     microscopy made on the spot, with exact labels
    instances     objects in a mask
    weight_map    which pixels matter most, and the border between touching cells
    augment       tiles, shifted, turned and bent
    normalize     from grey values to numbers around zero
"""
