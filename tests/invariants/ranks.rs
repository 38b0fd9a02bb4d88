//! What ranks compute together has the same bits as what one computes alone.

use flowdppo_wgpu::config::{Config, ObjectiveName, Order, Reduction, Sampler};
use flowdppo_wgpu::evaluate::{Evaluation, Evaluator};
use flowdppo_wgpu::gpu::{Gpu, Options};
use flowdppo_wgpu::model::BASE;
use flowdppo_wgpu::preview::Preview;
use flowdppo_wgpu::ranks::{PartialSums, Team};
use flowdppo_wgpu::rl::{Trainer, TrainerSettings};
use flowdppo_wgpu::sampling::{ModelOnDevice, SamplerTable};
use flowdppo_wgpu::{Error, Result};
use serde_json::{Map, Value};

use super::super::{classifier_file, flow_model_of, saved};
use crate::common::ranks::as_ranks;
use crate::common::{Random, tiny};

/// What a rank has after two iterations.
#[derive(Debug, PartialEq)]
struct Trained {
    files: Vec<(&'static str, Vec<u8>)>,
    lines: Vec<Map<String, Value>>,
    evaluation: Evaluation,
    images: Vec<f32>,
    captions: Vec<String>,
}

/// Six micro-batches per update, which four ranks cannot share equally.
fn config(change: impl Fn(&mut Config)) -> (tempfile::TempDir, Config) {
    let (folder, file) = classifier_file();
    let mut config = tiny::config(&file);
    config.train.micro_batch = 1;
    config.train.reduction = Reduction::Tree;
    config.eval.judge = config.reward[0].file.clone();
    change(&mut config);
    (folder, config)
}

/// Trains, evaluates and draws as a rank, with a device of its own: plans on one device share memory.
fn train(config: &Config, team: &Team) -> Trained {
    let gpu = Gpu::open(&Options::default().or_environment()).expect("it was opened before");
    let model = tiny::dit(1);
    let mut trainer =
        Trainer::of_team(&gpu, TrainerSettings::from(config), &model, team).expect("every rank has something to do");
    let metrics: Vec<_> = (0..2).map(|index| trainer.iteration(index).expect("the device works")).collect();
    let lines = metrics.iter().map(|metrics| {
        let Value::Object(mut line) = serde_json::to_value(metrics.line(1.0)).expect("numbers are JSON") else {
            panic!("a line is an object")
        };
        line.retain(|key, _| !key.starts_with("seconds_") && key != "images_per_second");
        line
    });
    let lines = lines.collect();
    let mut stores = trainer.optimizer.average_stores();
    stores.extend(trainer.base().map(|base| (BASE, base.clone())));
    let network = trainer.network().clone();
    let tuned = ModelOnDevice { network: &network, class_names: &[], stores: &stores };
    let mut evaluator = Evaluator::new(&gpu, &config.eval, &config.rollout, tuned, None).expect("it is small");
    evaluator.join(team);
    let evaluation = evaluator.evaluate(trainer.rewards(), 2).expect("the device works");
    let mut preview = Preview::new(&gpu, &config.preview, &[], tuned, 16, 1.0).expect("it is small");
    preview.join(team);
    let table = SamplerTable::ode(&flow_model_of(&model).schedule(), 3).expect("three steps are possible");
    let images = preview.draw(&table).expect("the device works");
    let captions = preview.captions(&images, trainer.rewards(), 2).expect("the device works");
    Trained { files: saved(&trainer, 2), lines, evaluation, images, captions }
}

/// Trains alone and with these numbers of ranks.
fn check(sizes: &[usize], change: impl Fn(&mut Config)) {
    let (_folder, config) = config(change);
    let alone = train(&config, &Team::default());
    for size in sizes {
        for (rank, trained) in as_ranks(*size, |team| train(&config, team)).iter().enumerate() {
            assert!(*trained == alone, "rank {rank} of {size} has other bits than one process alone");
        }
    }
}

#[test]
fn any_number_of_ranks_has_the_bits_of_one() {
    check(&[2, 3, 4], |_| ());
}

#[test]
fn ranks_have_the_bits_of_one_with_every_method() {
    check(&[3], |config| {
        config.objective.name = ObjectiveName::Nft;
        config.rollout.sampler = Sampler::Ode;
    });
    check(&[2], |config| {
        config.train.half_activations = true;
        config.rollout.shared_noise = true;
        config.objective.reference.beta = 0.1;
        config.train.order = Order::Contiguous;
    });
    check(&[2], |config| config.lora.rank = 2);
}

#[test]
fn the_fast_sum_of_one_rank_is_that_of_one_process() {
    let (_folder, config) = config(|config| config.train.reduction = Reduction::Fast);
    let alone = train(&config, &Team::default());
    assert!(as_ranks(1, |team| train(&config, team))[0] == alone);
    let two = as_ranks(2, |team| train(&config, team));
    assert!(two[0] == two[1], "ranks agree");
}

#[test]
fn more_ranks_than_micro_batches_are_refused_with_numbers() {
    let (_folder, mut config) = config(|config| config.train.micro_batch = 3);
    let refused = |config: &Config, size| {
        let refusals = as_ranks(size, |team| {
            let gpu = crate::common::gpu();
            Trainer::of_team(gpu, config.into(), &tiny::dit(1), team).map(drop).unwrap_err().to_string()
        });
        refusals[0].clone()
    };
    let message = refused(&config, 3);
    for part in ["6 samples", "2 micro-batches", "`train.micro_batch` = 3", "3 ranks", "set `train.micro_batch` = 2"] {
        assert!(message.contains(part), "{message}");
    }
    config.train.micro_batch = 1;
    let message = refused(&config, 7);
    assert!(message.contains("start at most 6 ranks"), "{message}");
}

#[test]
fn large_sums_are_exchanged_in_pieces_with_the_bits_of_one() {
    // More than two pieces, and not a multiple of the number of ranks.
    let elements = (2 << 22) + 7;
    let leaf = |number: u64| -> Vec<f32> {
        let mut random = Random(number);
        (0..elements).map(|_| random.uniform() as f32 - 0.5).collect()
    };
    let sum = |team: &Team| -> Vec<f32> {
        let mut sums = PartialSums::new(team.seat(), 5);
        team.seat().range(5).for_each(|number| sums.push(leaf(number as u64)));
        sums.over(team, elements).expect("nothing fails")
    };
    let alone = sum(&Team::default());
    for sums in as_ranks(3, sum) {
        assert!(sums.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn all_ranks_learn_of_an_error_wherever_they_are() {
    // Rank 1 fails where the others already wait for numbers.
    let errors = as_ranks(3, |team| -> String {
        let work = || -> Result<()> {
            if team.seat().rank == 1 {
                return Err(Error::Reward("the service is out of order".into()));
            }
            team.exchange(vec![vec![7]; 3]).map(drop)
        };
        let error = team.agree(work()).unwrap_err();
        assert!(team.has_failed() && matches!(error, Error::Reward(_)));
        // Whoever passes on the error does not wait for anyone.
        team.agree::<()>(Err(error)).unwrap_err().to_string()
    });
    assert_eq!(
        errors,
        ["rank 1: the service is out of order", "the service is out of order", "rank 1: the service is out of order"]
    );
    let same = as_ranks(2, |team| {
        let values = [("configuration", format!("CRC-32 {}", team.seat().rank))];
        team.check_same(&values, "start them alike").unwrap_err().to_string()
    });
    assert_eq!(same[0], same[1]);
    assert!(same[0].contains("rank 1 has another configuration (CRC-32 1) than rank 0 (CRC-32 0)"), "{}", same[0]);
}
