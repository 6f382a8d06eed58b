//! The console page.

use axum::Router;

use super::state::App;

pub(super) fn router() -> Router<App> {
    Router::new()
}
