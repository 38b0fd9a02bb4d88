//! Bad pictures, and unusable folders of pictures.

use std::fs;

use super::bad_input::{case, check, halve, nothing};
use super::workplace::Workplace;

/// A folder `images` of two classes with one image each.
fn pictures(here: &Workplace) {
    for class in ["cats", "dogs"] {
        fs::create_dir_all(here.path("images").join(class)).unwrap();
        image::RgbImage::new(8, 8).save(here.path("images").join(class).join("a.png")).unwrap();
    }
}

#[test]
fn pictures_and_their_folders() {
    const FOLDER: &str = "pretrain --config pretrain.toml --set data.kind=folder --set data.path=images";
    check(&[
        case(nothing, FOLDER, 2, &["cannot read images"]),
        case(|here| fs::create_dir(here.path("images")).unwrap(), FOLDER, 2, &["images", "no sub-directories"]),
        case(
            |here| {
                pictures(here);
                fs::create_dir(here.path("images/empty")).unwrap();
            },
            FOLDER,
            2,
            &["empty", "it contains no images"],
        ),
        case(
            |here| {
                pictures(here);
                halve(&here.path("images/cats/a.png"), &here.path("images/dogs/b.png"));
            },
            FOLDER,
            2,
            &["b.png", "cannot read", "replace it with a complete image, or remove it"],
        ),
        case(
            |here| {
                pictures(here);
                let file = here.path("images/dogs/b.jpg");
                image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([x as u8, y as u8, 7])).save(&file).unwrap();
                halve(&file.clone(), &file);
            },
            FOLDER,
            2,
            &["b.jpg: the end of the JPEG is missing", "replace it with a complete image, or remove it"],
        ),
        case(
            |here| {
                pictures(here);
                fs::write(here.path("images/dogs/b.ppm"), "P6 2000000 2000000 255\n").unwrap();
            },
            FOLDER,
            2,
            &["b.ppm: its header says 2000000x2000000 pixels", "too much to decode"],
        ),
        case(
            pictures,
            "pretrain --config pretrain.toml --set data.kind=folder --set data.path=images --set model.num_classes=1",
            2,
            &["2 classes", "`model.num_classes` is 1"],
        ),
        case(
            pictures,
            "pretrain --set model.file=base.safetensors --set data.kind=folder --set data.path=images --set \
             data.image_size=16",
            2,
            &["16x16", "8x8"],
        ),
        case(
            |here| fs::write(here.path("labels.txt"), "0 1 two").unwrap(),
            "fit-classifier --set data.kind=sheet --set data.path=nowhere.png --set data.labels=labels.txt",
            2,
            &["nowhere.png"],
        ),
    ]);
}
