//! TEMPORARY
/// x
#[derive(Debug, Clone, serde::Serialize)]
pub struct RankRow { /// x
pub layer: Option<usize>, /// x
pub site: String, /// x
pub rank: usize, /// x
pub r_max: Option<usize>, /// x
pub params: usize }
/// x
pub fn text(_r: &[RankRow]) -> String { String::new() }
/// x
pub fn svg(_n: &str, _r: &[RankRow]) -> String { "<svg".into() }
