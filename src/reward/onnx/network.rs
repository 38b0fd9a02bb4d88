//! An ONNX model, run by tract on the CPU, one picture at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use tract_onnx::pb::{ModelProto, ValueInfoProto, tensor_proto, tensor_shape_proto, type_proto};
use tract_onnx::prelude::*;

use crate::config::TensorLayout;
use crate::error::{Error, Result};
use crate::files::read_file;
use crate::shape::ImageShape;
use crate::sniff;

/// What the configuration and the pictures say about the input of a model.
pub(super) struct Wanted<'a> {
    /// Channels of the pictures.
    pub shape: ImageShape,
    /// Height and width, if the configuration sets them.
    pub input_size: Option<[usize; 2]>,
    /// Order of the input's dimensions.
    pub layout: TensorLayout,
    /// The output that is read; empty if there is only one.
    pub output_name: &'a str,
}

/// A model that is ready to run.
#[derive(Debug)]
pub(super) struct Network {
    file: String,
    plan: Arc<TypedRunnableModel>,
    layout: TensorLayout,
    /// Channels of its input: 1 or 3.
    pub channels: usize,
    /// Height and width of its input.
    pub size: [usize; 2],
    /// Shape of its output for one picture; the first dimension is 1, unless there is none.
    pub output_shape: Vec<usize>,
    /// The symbols that a PaddleOCR text recogniser contains, one per line.
    pub alphabet: Option<String>,
}

impl Network {
    /// Loads a model, fixes the shape of its input, and runs it once.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file if it cannot be read, is not ONNX, has operators that tract does not have, or does not
    /// take one picture.
    pub fn load(file: &str, wanted: &Wanted) -> Result<Self> {
        let path = Path::new(file);
        let bytes = read_file(path)?;
        // Inconsistent files make tract panic; for the user they are bad input like any other.
        let loaded = catch_unwind(AssertUnwindSafe(|| Self::of(file, &bytes, wanted)));
        loaded.unwrap_or_else(|_| Err(Error::unreadable(path, "it is damaged: no plan can be made for its operators")))
    }

    fn of(file: &str, bytes: &[u8], wanted: &Wanted) -> Result<Self> {
        let path = Path::new(file);
        let bad = |cause: String| Error::unreadable(path, cause);
        let framework = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
        let mut reader = bytes;
        let proto = framework.proto_model_for_read(&mut reader).ok().filter(|proto| proto.graph.is_some());
        let proto = proto.ok_or_else(|| {
            let what = sniff::what_is(bytes).filter(|what| *what != "an ONNX model");
            bad(match what {
                Some(what) => format!("it is not an ONNX model but {what}"),
                None => "it is not an ONNX model".into(),
            })
        })?;
        let graph = proto.graph.as_ref().expect("a model without a graph was rejected");
        if let Some(node) = graph.node.iter().find(|node| !framework.op_register.0.contains_key(&node.op_type)) {
            return Err(bad(format!(
                "its operator {} (node {:?}) is not supported: export the model without it",
                node.op_type, node.name
            )));
        }
        // Weights may be in a file next to the model.
        let folder = path.parent().and_then(Path::to_str);
        let unusable = |cause: TractError| bad(format!("it cannot be run: {}", one_line(&cause)));
        let mut model = framework.parse(&proto, folder).map_err(unusable)?.model;
        if model.inputs.len() != 1 {
            let names: Vec<&str> = model.inputs.iter().map(|input| &*model.node(input.node).name).collect();
            return Err(bad(format!(
                "it has {} inputs ({}), but one is expected: images",
                names.len(),
                names.join(", ")
            )));
        }
        let output = select_output(&proto, wanted.output_name).map_err(bad)?;
        let output = model.outputs[output];
        model.select_output_outlets(&[output]).map_err(unusable)?;

        let fact = model.input_fact(0).map_err(unusable)?;
        let [channels, height, width] = input_shape(fact, wanted).map_err(bad)?;
        let shape = dimensions(wanted.layout, channels, [height, width]);
        let plan = model
            .with_input_fact(0, f32::fact(shape).into())
            .and_then(|model| model.into_optimized()?.into_runnable())
            .map_err(|cause| {
                let [height, width] = [height, width].map(|side| side.to_string());
                bad(format!(
                    "it cannot be run on one image of {channels} channels and {height}x{width} pixels: {}",
                    one_line(&cause)
                ))
            })?;
        let character = proto.metadata_props.iter().find(|property| property.key == "character");
        let mut network = Self {
            file: file.to_owned(),
            plan,
            layout: wanted.layout,
            channels,
            size: [height, width],
            output_shape: Vec::new(),
            alphabet: character.map(|property| property.value.clone()),
        };
        let output = network.output(&vec![0.0; channels * height * width])?;
        network.output_shape = output.shape().to_vec();
        if network.output_shape.first().is_some_and(|batch| *batch != 1) {
            return Err(bad(format!(
                "for one image its output has the shape {:?}: the first dimension must be the number of images, 1",
                network.output_shape
            )));
        }
        Ok(network)
    }

    /// The output for one picture, flat; `pixels` are in the order of the input.
    ///
    /// # Errors
    /// If the output contains a number that is not finite.
    pub fn run(&self, pixels: &[f32]) -> Result<Vec<f64>> {
        let output = self.output(pixels)?;
        let values = output.to_plain_array_view::<f32>().map_err(|cause| self.failed(&one_line(&cause)))?;
        let values: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
        match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(self.failed(&format!("its output contains {value}: check `mean`, `std` and the model"))),
            None => Ok(values),
        }
    }

    fn output(&self, pixels: &[f32]) -> Result<Tensor> {
        let run = || -> TractResult<Tensor> {
            let shape = dimensions(self.layout, self.channels, self.size);
            let outputs = self.plan.run(tvec![Tensor::from_shape(&shape, pixels)?.into()])?;
            Ok(outputs[0].cast_to::<f32>()?.into_owned())
        };
        run().map_err(|cause| self.failed(&one_line(&cause)))
    }

    fn failed(&self, cause: &str) -> Error {
        Error::input(format!("the model {} failed on an image: {cause}", self.file))
    }
}

/// The shape of the input for one picture.
fn dimensions(layout: TensorLayout, channels: usize, [height, width]: [usize; 2]) -> [usize; 4] {
    match layout {
        TensorLayout::Nchw => [1, channels, height, width],
        TensorLayout::Nhwc => [1, height, width, channels],
    }
}

/// The index of the requested output.
fn select_output(proto: &ModelProto, name: &str) -> std::result::Result<usize, String> {
    let outputs: Vec<&ValueInfoProto> = proto.graph.iter().flat_map(|graph| &graph.output).collect();
    let listed = || outputs.iter().map(|output| described(output)).collect::<Vec<_>>().join(", ");
    match outputs.len() {
        0 => Err("it has no outputs".into()),
        1 if name.is_empty() => Ok(0),
        count if name.is_empty() => Err(format!(
            "it has {count} outputs: set `output_name` to the one that contains the score, out of {}",
            listed()
        )),
        _ => outputs
            .iter()
            .position(|output| output.name == name)
            .ok_or_else(|| format!("it has no output {name:?}: set `output_name` to one of {}", listed())),
    }
}

/// An output for a message: its name, its type and its shape, as far as the file has them.
fn described(output: &ValueInfoProto) -> String {
    let kind = match output.r#type.as_ref().and_then(|kind| kind.value.as_ref()) {
        Some(type_proto::Value::TensorType(tensor)) => {
            let dimension = |dimension: &tensor_shape_proto::Dimension| match &dimension.value {
                Some(tensor_shape_proto::dimension::Value::DimValue(size)) => size.to_string(),
                Some(tensor_shape_proto::dimension::Value::DimParam(name)) if !name.is_empty() => name.clone(),
                _ => "?".into(),
            };
            let shape = tensor.shape.as_ref();
            let shape = shape.map(|shape| shape.dim.iter().map(dimension).collect::<Vec<_>>().join(", "));
            format!("{}{}", element_type(tensor.elem_type), shape.map_or(String::new(), |shape| format!(" [{shape}]")))
        }
        _ => "not a tensor".into(),
    };
    format!("{} ({kind})", output.name)
}

/// ONNX's name of a type.
fn element_type(number: i32) -> String {
    let name = tensor_proto::DataType::try_from(number).map_or("an unknown type", |kind| kind.as_str_name());
    name.to_lowercase()
}

/// Channels, height and width, from the file, else the configuration, else the pictures.
fn input_shape(fact: &InferenceFact, wanted: &Wanted) -> std::result::Result<[usize; 3], String> {
    use tract_onnx::tract_hir::infer::Factoid;
    if let Some(kind) = fact.datum_type.concretize().filter(|kind| *kind != f32::datum_type()) {
        return Err(format!("its input has the type {kind:?}, but f32 is expected: export the model in 32 bits"));
    }
    let expected = match wanted.layout {
        TensorLayout::Nchw => "[images, channels, height, width] for `layout` = \"nchw\"",
        TensorLayout::Nhwc => "[images, height, width, channels] for `layout` = \"nhwc\"",
    };
    let is_four = fact.shape.rank().concretize().is_none_or(|rank| rank == 4);
    if !is_four {
        return Err(format!("its input has the shape {}, but {expected} is expected", fact.format_dt_shape()));
    }
    // An open dimension is absent, symbolic, or negative.
    let fixed = |dimension: usize| {
        let dimension = fact.shape.dim(dimension)?.concretize()?;
        dimension.to_i64().ok().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0)
    };
    let [channels, height, width] = match wanted.layout {
        TensorLayout::Nchw => [1, 2, 3],
        TensorLayout::Nhwc => [3, 1, 2],
    };
    let channels = fixed(channels).unwrap_or(wanted.shape.channels);
    if !matches!(channels, 1 | 3) {
        return Err(format!(
            "its input has the shape {}, so {channels} channels, but 1 or 3 are expected in {expected}: check `layout`",
            fact.format_dt_shape()
        ));
    }
    let side = |name: &str, fixed: Option<usize>, given: Option<usize>, usual: usize| match (fixed, given) {
        (Some(fixed), Some(given)) if fixed != given => {
            Err(format!("its input has the {name} {fixed}, but `input_size` says {given}: remove `input_size`"))
        }
        (fixed, given) => Ok(fixed.or(given).unwrap_or(usual)),
    };
    let given = |index: usize| wanted.input_size.map(|size| size[index]);
    let height = side("height", fixed(height), given(0), wanted.shape.height)?;
    Ok([channels, height, side("width", fixed(width), given(1), wanted.shape.width)?])
}

/// An error with its causes. tract prints complete operators, on many lines.
fn one_line(cause: &TractError) -> String {
    let text = format!("{cause:#}").split_whitespace().collect::<Vec<_>>().join(" ");
    match text.char_indices().nth(400) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
