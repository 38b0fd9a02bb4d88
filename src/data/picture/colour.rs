//! Converts the colours of a file to sRGB.

use std::sync::Arc;

use image::Rgba32FImage;
use moxcms::{ColorProfile, DataColorSpace, Layout, RenderingIntent, TransformF32Executor, TransformOptions};

/// The conversion from a profile's colours to sRGB.
#[derive(Clone)]
pub(super) struct Conversion {
    transform: Arc<TransformF32Executor>,
    /// The profile is for grey pictures: one number per pixel.
    is_grey: bool,
}

/// `None` if the profile is that of sRGB, so that bytes stay unchanged.
type Found = Result<Option<Conversion>, String>;

/// Cached conversions; the pictures of a folder mostly share one.
#[derive(Default)]
pub(super) struct Profiles {
    last: Option<(Vec<u8>, bool, Found)>,
}

impl Profiles {
    /// The conversion of a profile.
    ///
    /// # Errors
    /// Why the profile cannot be used for such a picture.
    pub fn conversion(&mut self, profile: Vec<u8>, is_grey: bool) -> Found {
        if let Some((known, grey, found)) = &self.last
            && (known, *grey) == (&profile, is_grey)
        {
            return found.clone();
        }
        let found = Conversion::of(&profile, is_grey);
        self.last = Some((profile, is_grey, found.clone()));
        found
    }
}

impl Conversion {
    fn of(profile: &[u8], is_grey: bool) -> Found {
        let profile = ColorProfile::new_from_slice(profile).map_err(|cause| format!("it is damaged ({cause})"))?;
        let layout = match profile.color_space {
            DataColorSpace::Rgb => Layout::Rgb,
            DataColorSpace::Gray if is_grey => Layout::Gray,
            other => return Err(format!("it is for colours of the kind {other:?}")),
        };
        let options = TransformOptions {
            rendering_intent: RenderingIntent::Perceptual,
            prefer_fixed_point: false,
            ..TransformOptions::default()
        };
        let transform = profile
            .create_transform_f32(layout, &ColorProfile::new_srgb(), Layout::Rgb, options)
            .map_err(|cause| format!("it cannot be converted to sRGB ({cause})"))?;
        let conversion = Self { transform, is_grey: layout == Layout::Gray };
        let is_srgb = conversion.is_identity().map_err(|cause| format!("it cannot be converted to sRGB ({cause})"))?;
        Ok((!is_srgb).then_some(conversion))
    }

    /// Whether no colour changes by a full byte: the many sRGB profiles differ in rounding.
    fn is_identity(&self) -> Result<bool, String> {
        const STEPS: usize = 9;
        let level = |index: usize| index as f32 / (STEPS - 1) as f32;
        let count = if self.is_grey { STEPS } else { STEPS.pow(3) };
        let colours: Vec<f32> = (0..count)
            .flat_map(|index| match self.is_grey {
                true => [level(index); 3],
                false => [index % STEPS, index / STEPS % STEPS, index / STEPS / STEPS].map(level),
            })
            .collect();
        let converted = self.convert(&colours)?;
        Ok(colours.iter().zip(&converted).all(|(before, after)| (before - after).abs() < 1.0 / 255.0))
    }

    /// Converts interleaved red, green and blue.
    fn convert(&self, colours: &[f32]) -> Result<Vec<f32>, String> {
        let mut converted = vec![0.0; colours.len()];
        let result = if self.is_grey {
            let grey: Vec<f32> = colours.iter().step_by(3).copied().collect();
            self.transform.transform(&grey, &mut converted)
        } else {
            self.transform.transform(colours, &mut converted)
        };
        result.map_err(|cause| cause.to_string())?;
        Ok(converted)
    }

    /// Converts colours; alpha is unchanged.
    ///
    /// # Errors
    /// If the transform fails.
    pub fn apply(&self, picture: &mut Rgba32FImage) -> Result<(), String> {
        let colours: Vec<f32> = picture
            .pixels()
            .flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2]])
            .map(|value| value.clamp(0.0, 1.0))
            .collect();
        let converted = self.convert(&colours).map_err(|cause| format!("its colours cannot be converted ({cause})"))?;
        for (pixel, colours) in picture.pixels_mut().zip(converted.chunks_exact(3)) {
            pixel.0[..3].copy_from_slice(colours);
        }
        Ok(())
    }
}

/// Linear light to sRGB (IEC 61966-2-1); alpha is unchanged.
pub(super) fn encode(picture: &mut Rgba32FImage) {
    let curve = |light: f32| match light.clamp(0.0, 1.0) {
        light if light <= 0.003_130_8 => 12.92 * light,
        light => 1.055 * light.powf(1.0 / 2.4) - 0.055,
    };
    for pixel in picture.pixels_mut() {
        pixel.0[..3].iter_mut().for_each(|value| *value = curve(*value));
    }
}
