//! Stores in chunks: the cuts change no bit, and a tensor that fits in no chunk is rejected by name.

use flowdppo_wgpu::error::{Error, Shortage};
use flowdppo_wgpu::graph::{Graph, check_tensors};
use flowdppo_wgpu::ops::Scale;
use flowdppo_wgpu::optimizer::{AVERAGE, FIRST_MOMENT, GRADIENTS, SECOND_MOMENT};

use crate::*;

const STORES: [flowdppo_wgpu::graph::Store; 5] = [PARAMETERS, AVERAGE, GRADIENTS, FIRST_MOMENT, SECOND_MOMENT];

/// The result of two iterations on a device whose chunks are no larger than this: bits of all stores, the norms of the
/// gradients, and the number of chunks of the parameters.
fn trained(chunk_bytes: Option<u64>, change: fn(&mut Config)) -> (Vec<Vec<u32>>, String, usize) {
    let (_folder, file) = classifier_file();
    let mut config = tiny::config(&file);
    // Every bit of the norm matters, because every gradient is clipped by it.
    config.train.max_grad_norm = 1e-3;
    change(&mut config);
    let options = Options { chunk_bytes, ..Options::default() };
    let gpu = Gpu::open(&options.or_environment()).expect("the tests need an adapter");
    let mut trainer = Trainer::new(&gpu, (&config).into(), &tiny::dit(2)).expect("it is small");
    let metrics = (0..2).map(|iteration| {
        let metrics = trainer.iteration(iteration).expect("the device works");
        format!("{:?} {:?} {:?}", metrics.reward, metrics.updates, metrics.by_step)
    });
    let metrics = metrics.collect();
    let read = |store| words(&trainer.optimizer.read(store).expect("the device works"));
    (STORES.map(read).to_vec(), metrics, trainer.optimizer.stores()[&PARAMETERS].chunk_count())
}

#[test]
fn chunks_change_no_bit() {
    let cases: [fn(&mut Config); 4] = [
        |_| {},
        |config| {
            config.lora.rank = 2;
            config.model.weights = WeightType::F16;
        },
        |config| {
            config.objective.reference.beta = 0.1;
            config.model.weights = WeightType::Q8_0;
        },
        |config| {
            config.objective.name = ObjectiveName::Nft;
            config.rollout.sampler = Sampler::Ode;
            config.rollout.trained_steps = flowdppo_wgpu::config::TrainedSteps::AllButLast {};
        },
    ];
    for (case, change) in cases.into_iter().enumerate() {
        let (stores, metrics, chunks) = trained(None, change);
        assert_eq!(chunks, 1, "the model is small");
        // From one chunk per tensor to a few tensors per chunk.
        for chunk_bytes in [256, 2048] {
            let (cut_stores, cut_metrics, chunks) = trained(Some(chunk_bytes), change);
            assert!(chunks > 2, "case {case}: {chunks} chunks of {chunk_bytes} bytes");
            assert_eq!(cut_metrics, metrics, "case {case}, {chunk_bytes} bytes");
            for (index, (cut, whole)) in cut_stores.iter().zip(&stores).enumerate() {
                assert!(cut == whole, "case {case}, {chunk_bytes} bytes: {:?} differs", STORES[index]);
            }
        }
    }
}

#[test]
fn chunks_follow_each_other_and_hold_whole_tensors() {
    let layout = flow_model_of(&tiny::dit(2)).layout();
    assert_eq!(layout.chunks(None), std::iter::once(0..layout.elements()).collect::<Vec<_>>());
    for most in [1, 256, 1000, 4096, 1 << 20] {
        let chunks = layout.chunks(Some(most));
        assert_eq!((chunks[0].start, chunks.last().map(|chunk| chunk.end)), (0, Some(layout.elements())));
        assert!(chunks.windows(2).all(|pair| pair[0].end == pair[1].start), "{most}: {chunks:?}");
        for chunk in &chunks {
            let entries = layout.entries().iter().filter(|entry| chunk.contains(&entry.offset));
            assert!(entries.clone().all(|entry| entry.offset + entry.elements() <= chunk.end), "{most}: {chunk:?}");
            assert!(4 * chunk.len() as u64 <= most || entries.count() == 1, "{most}: {chunk:?} could be smaller");
        }
        let trained: usize = layout.trainable_chunks(Some(most)).iter().map(ExactSizeIterator::len).sum();
        assert_eq!(trained, layout.trainable_elements());
    }
}

#[test]
fn a_tensor_that_no_kernel_can_bind_is_rejected_by_name() {
    let mut graph = Graph::new();
    let x = graph.input("hidden states", &[1024, 1024]);
    let y = graph.apply(Scale(2.0), &[x]);
    graph.keep(y);
    let profile = |binding_bytes| DeviceProfile { binding_bytes, ..DeviceProfile::default() };
    assert!(check_tensors(&graph, &profile(None)).is_ok() && check_tensors(&graph, &profile(Some(4 << 20))).is_ok());
    let error = check_tensors(&graph, &profile(Some(2 << 20))).expect_err("it is rejected");
    assert!(matches!(error, Error::Memory { shortage: Shortage::Piece { of_batch: true, .. }, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("needs 4.0 MiB in one piece, but the device allows 2.0 MiB"), "{message}");
}

/// A tensor that no setting can make smaller is rejected by name before anything is allocated.
#[test]
fn the_cost_of_training_knows_the_limits_of_the_device() {
    let (_folder, file) = classifier_file();
    let (config, model) = (tiny::config(&file), tiny::dit(1));
    let profile = DeviceProfile { binding_bytes: Some(1 << 10), ..DeviceProfile::default() };
    let error = Trainer::cost(&(&config).into(), &flow_model_of(&model), &profile).expect_err("it is refused");
    assert!(matches!(error, Error::Memory { shortage: Shortage::Piece { .. }, .. }), "{error}");
}
