// What a loss found out about a term; src/ops/policy_objective.rs explains the members.
struct Outcome {
    loss: f32,
    log_ratio: f32,
    ratio: f32,
    kl: f32,
    kept: f32,
    d_s1: f32,
    d_s2: f32,
    beyond: f32,
}
