use flowdppo_wgpu::ops::Add;

use crate::common::{Input, check, check_forward};

/// One rounding an element: 6e-8 squared is 4e-15.
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
    let shape = [65_536 * 64 + 3];
    check_forward("add", &[Input::normal(&shape), Input::normal(&shape)], ONE_ROUNDING, |graph, x| {
        vec![graph.apply(Add, &[x[0], x[1]])]
    });
}
