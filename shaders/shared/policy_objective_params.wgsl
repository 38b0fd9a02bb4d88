// Parameters of the policy objectives and of their gradient.
struct PolicyObjectiveParams {
    rows: u32,
}
