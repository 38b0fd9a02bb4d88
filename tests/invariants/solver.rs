//! DPM-Solver++ on the device against its formula.

use flowdppo_wgpu::flow::schedule::Schedule;
use flowdppo_wgpu::flow::solver::Solver;
use flowdppo_wgpu::graph::Stores;
use flowdppo_wgpu::optimizer::PARAMETERS;
use flowdppo_wgpu::sampling::{SamplerTable, Sampling, requests_for};

use crate::common::{gpu, tiny};
use crate::flow_model_of;

const STEPS: usize = 7;

#[test]
fn a_trajectory_follows_the_formula() {
    let model = tiny::dit(1);
    let flow_model = &flow_model_of(&model);
    let weights = gpu().allocate("model", 4 * model.weights.len() as u64).expect("it is small");
    gpu().write(&weights, 0, &model.weights);
    let stores = Stores::from([(PARAMETERS, weights.into())]);
    let mut sampling = Sampling::new_for(gpu(), &flow_model.into(), [6, 4], 1.0, Solver::DpmSolverPlusPlus, &stores)
        .expect("it is small");
    let schedule = Schedule::StaticShift { shift: 2.0 };
    let table = SamplerTable::solve(&schedule, STEPS, Solver::DpmSolverPlusPlus).expect("it is a schedule");
    assert!(table.history[2..STEPS - 1].iter().all(|c| *c < 0.0), "the middle steps use the one before");

    // Six samples in batches of four: the second batch must not see the history of the first.
    let requests = requests_for(&[0, 1, 2], 2, 5);
    let mut visited: Vec<(usize, Vec<f32>, Vec<f32>)> = Vec::new();
    let images = sampling
        .draw_visited(&table, &requests, None, |moment| {
            visited.push((moment.step, gpu().read(&[moment.x])?, gpu().read(&[moment.velocity])?));
            Ok(())
        })
        .expect("the device works");
    let mut checked = 0;
    for batch in visited.chunks(STEPS) {
        let mut before: Vec<f64> = vec![0.0; batch[0].1.len()];
        for (index, (step, x, v)) in batch.iter().enumerate() {
            let next = batch.get(index + 1).map_or(&images[..0], |(_, next, _)| next);
            for (j, next) in next.iter().enumerate() {
                let (x, v) = (f64::from(x[j]), f64::from(v[j]));
                let row = table.rows[*step];
                let expected = row.a * x + row.b * v + table.history[*step] * before[j];
                before[j] = x - table.sigmas[*step] * v;
                // Three products of about 1.
                assert!((f64::from(*next) - expected).abs() < 2e-6, "step {step}: {next} instead of {expected}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 6 * (STEPS - 1) * flow_model.dim());

    // A plan with a history can run any deterministic table.
    let euler = SamplerTable::solve(&schedule, STEPS, Solver::Euler).expect("it is a schedule");
    let with_history = sampling.draw(&euler, &requests).expect("the device works");
    let mut plain = Sampling::new(gpu(), &flow_model.into(), [6, 4], 1.0, &stores).expect("it is small");
    assert_eq!(with_history, plain.draw(&euler, &requests).expect("the device works"));
    assert_ne!(with_history, images);
}
