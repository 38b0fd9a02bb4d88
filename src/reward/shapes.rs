//! The checker of the world of coloured shapes as a reward.

use maybe_async::maybe_async;

use super::{Batch, Reward};
use crate::classes::ConditionKind;
use crate::error::{Error, Result};
use crate::model::Pictures;
use crate::shape::ImageShape;
use crate::shapes::{Caption, SIDE, Verdict, check, parse};

/// What is measured: everything together, and the facts that it is made of.
const COMPONENTS: [&str; 5] = ["score", "count", "colour", "shape", "relation"];

/// How well pictures show the objects of their captions.
#[derive(Debug)]
pub struct ShapesReward {
    components: [String; 5],
    /// The caption of each class or prompt.
    captions: Vec<&'static Caption>,
    is_strict: bool,
}

impl ShapesReward {
    /// The reward of entry `index`, which scores only 0 or 1 if it is strict.
    ///
    /// # Errors
    /// [`Error::Input`] if the pictures are too small for shapes, or not square or not RGB, or a class or prompt is not a
    /// caption of such pictures.
    pub fn new(index: usize, is_strict: bool, pictures: &Pictures<'_>) -> Result<Self> {
        let ImageShape { channels, height, width } = pictures.shape;
        let least = SIDE as usize;
        if channels != 3 || height != width || height < least {
            return Err(Error::input(format!(
                "`reward.{index}.kind` = \"shapes\" needs square RGB images of at least {least} pixels per side, but the \
                 model makes {}: choose another kind",
                pictures.shape
            )));
        }
        let captions = captions_of(pictures, &format!("`reward.{index}.kind` = \"shapes\""))?;
        Ok(Self { components: COMPONENTS.map(str::to_owned), captions, is_strict })
    }
}

/// The caption of each class or prompt; messages call what needs them `scorer`.
///
/// # Errors
/// [`Error::Input`] if one is not a caption of coloured shapes.
pub(super) fn captions_of(pictures: &Pictures<'_>, scorer: &str) -> Result<Vec<&'static Caption>> {
    let kind = if pictures.prompts.is_empty() { ConditionKind::Class } else { ConditionKind::Prompt };
    let caption = |at: usize| {
        let name = pictures.classes.names.get(at).cloned().unwrap_or_else(|| at.to_string());
        parse(&name).map_err(|cause| {
            let (kind, number) = (kind.name(), at + 1);
            Error::input(format!("{scorer} cannot score {kind} {number}: {cause}"))
        })
    };
    (0..pictures.classes.count).map(caption).collect()
}

#[maybe_async(?Send)]
impl Reward for ShapesReward {
    fn components(&self) -> &[String] {
        &self.components
    }

    fn weighted(&self) -> &[String] {
        &self.components[..1]
    }

    async fn score(&mut self, batch: &Batch<'_>) -> Result<Vec<Vec<f64>>> {
        let mut scores = vec![Vec::with_capacity(batch.labels.len()); COMPONENTS.len()];
        for (image, label) in batch.each().zip(batch.labels) {
            let verdict = check(image, batch.shape.width, self.captions[*label as usize]);
            let Verdict { score, is_right, count, colour, shape, relation } = verdict;
            let score = if self.is_strict { f64::from(u8::from(is_right)) } else { score };
            for (all, value) in scores.iter_mut().zip([score, count, colour, shape, relation]) {
                all.push(value);
            }
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::Classes;
    use crate::config::{self, RewardKind};
    use crate::flow::noise::{NoiseKey, Stream};
    use crate::model::Prompt;
    use crate::reward::{Purpose, Rewards, ScoringContext};
    use crate::shapes::Scene;

    const RGB: ImageShape = ImageShape::square(3, 24);

    /// What `make` says about pictures of this shape with these prompts.
    fn with<T>(shape: ImageShape, texts: &[&str], make: impl FnOnce(&Pictures<'_>) -> T) -> T {
        let names: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        let prompts: Vec<Prompt> = texts.iter().map(|text| Prompt::from(*text)).collect();
        let classes = Classes { of: "the model", count: names.len(), names: &names };
        make(&Pictures { shape, classes, prompts: &prompts })
    }

    fn picture(text: &str) -> Vec<f32> {
        let mut random = Stream::new(NoiseKey { seed: 3, rollout: 0, sample: 0, step: 0 });
        Scene::draw(parse(text).unwrap(), &mut random).render(24)
    }

    #[test]
    fn a_number_as_weight_counts_only_the_score() {
        let texts = ["two red discs", "a red disc above a blue square"];
        let reward = |is_strict, weight| {
            let scorer = with(RGB, &texts, |pictures| ShapesReward::new(0, is_strict, pictures)).unwrap();
            let member = ("shapes".to_owned(), Box::new(scorer) as Box<dyn Reward>, weight);
            with(RGB, &texts, |pictures| Rewards::of(vec![member], pictures)).unwrap()
        };
        let context = ScoringContext { purpose: Purpose::Training, iteration: 0 };
        // The second picture has its objects the wrong way round.
        let images = [picture(texts[0]), picture("a red disc below a blue square")].concat();
        let mut soft = reward(false, 2.0.into());
        assert_eq!(soft.names(), ["shapes.score", "shapes.count", "shapes.colour", "shapes.shape", "shapes.relation"]);
        let scores = soft.score(&images, &[0, 1], context).unwrap();
        assert_eq!(scores.components, [[1.0, 2.0 / 3.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]]);
        assert_eq!(scores.totals, [2.0, 4.0 / 3.0]);
        let strict = reward(true, 2.0.into()).score(&images, &[0, 1], context).unwrap();
        assert_eq!((&strict.components[0], &strict.components[4]), (&vec![1.0, 0.0], &vec![1.0, 0.0]));
        let each = config::Weight::Each([("relation".to_owned(), 0.5)].into());
        assert_eq!(reward(false, each).score(&images, &[0, 1], context).unwrap().totals, [0.5, 0.0]);
    }

    #[test]
    fn only_rgb_pictures_of_captions_can_be_scored() {
        let entry = [config::Reward { kind: RewardKind::Shapes, ..config::Reward::default() }];
        let check = |shape, texts: &[&str]| with(shape, texts, |pictures| Rewards::check(&entry, pictures));
        check(RGB, &["a disc", "four white triangles"]).unwrap();
        let flat = ImageShape { channels: 3, height: 24, width: 32 };
        for shape in [ImageShape::square(1, 24), ImageShape::square(3, 16), flat] {
            let message = check(shape, &["a disc"]).unwrap_err().to_string();
            let expected = format!(
                "`reward.0.kind` = \"shapes\" needs square RGB images of at least 24 pixels per side, but the model makes \
                 {shape}: choose another kind"
            );
            assert_eq!(message, expected);
        }
        let message = check(RGB, &["a disc", "a purple disc"]).unwrap_err().to_string();
        let expected = "`reward.0.kind` = \"shapes\" cannot score prompt 2: \"a purple disc\" is not a caption of coloured \
                        shapes: no caption has the word \"purple\"; captions are such as";
        assert!(message.starts_with(expected), "{message}");
    }
}
