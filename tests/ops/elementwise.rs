use flowdppo_wgpu::error::{Error, Shortage};
use flowdppo_wgpu::graph::{Graph, Plan, Stores};
use flowdppo_wgpu::ops::{Add, MatMul};

use crate::common::{Input, check, check_forward, gpu};

/// One rounding per element: 6e-8 squared is 4e-15.
const ONE_ROUNDING: f64 = 1e-14;

#[test]
fn add() {
    for shape in [vec![1], vec![7], vec![64], vec![65], vec![3, 5, 7], vec![4099]] {
        check("add", &[Input::normal(&shape), Input::normal(&shape)], ONE_ROUNDING, |graph, x| {
            vec![graph.apply(Add, &[x[0], x[1]])]
        });
    }
}

#[test]
fn add_past_65535_workgroups() {
    let shape = [65_536 * 256 + 3];
    check_forward("add", &[Input::normal(&shape), Input::normal(&shape)], ONE_ROUNDING, |graph, x| {
        vec![graph.apply(Add, &[x[0], x[1]])]
    });
}

#[test]
fn tensors_that_no_device_can_store_are_rejected() {
    // The elements of the first, and the workgroups of the second, cannot be counted in 32 bits.
    for rows in [1 << 26, 1 << 40] {
        let mut graph = Graph::new();
        let x = graph.input("x", &[rows, 128]);
        let weight = graph.input("weight", &[128, 64]);
        let sum = graph.apply(Add, &[x, x]);
        graph.apply(MatMul::default(), &[sum, weight]);
        let error = Plan::new(gpu(), &graph, &Stores::new()).expect_err("it is too large");
        assert!(matches!(error, Error::Memory { shortage: Shortage::Piece { of_batch: true, .. }, .. }), "{error}");
    }
}
