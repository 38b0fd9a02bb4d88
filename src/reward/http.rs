//! A service as a reward: pictures and prompts by POST, scores as the answer, in the protocol of UniRL's reward
//! service.
//!
//! The protocol is described in docs/rewards.md.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ureq::Agent;
use ureq::http::{Response, StatusCode, Uri};

use super::outside::{About, Failure, Limits, Outside, Sample, Scorer, Subject};
use super::outside::{check_subject, excerpt, finite, grey, insist, listed, quoted, why_no_json, with_words};
use crate::config::nearest;
use crate::error::{Error, Result};
use crate::files::without_mark;

/// The largest body that is read, in bytes.
const LARGEST_BODY: u64 = 64 << 20;

/// A service as a reward: checks its health, that it has `rewards`, and what they measure.
///
/// The last comes from scoring a grey picture. A reward with one score is a component of its name; one with several
/// has components `reward.score`.
///
/// # Errors
/// [`Error::Input`] if `url` is not an address, nothing answers, a reward is unknown, or the model does not make images.
pub fn http(url: &str, rewards: &[String], limits: Limits, subject: &Subject<'_>) -> Result<Outside<Service>> {
    check_subject("http", subject)?;
    let mut service = Service {
        agent: Agent::config_builder()
            .timeout_global(Some(limits.timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections(limits.workers)
            .max_idle_connections_per_host(limits.workers)
            // The service is assumed to be nearby; proxies of the environment are for the internet.
            .proxy(None)
            .build()
            .into(),
        url: checked_url(url)?,
        rewards: rewards.into(),
        components: Arc::new([]),
        limits,
    };
    service.check_health()?;
    service.check_rewards()?;
    let sample = grey(subject)?;
    let mut answer = service.insist(|| service.post(std::slice::from_ref(&sample)))?;
    service.components = service.components_of(&answer.results.remove(0)).map_err(Error::input)?;
    let components = service.components.iter().map(Component::name).collect();
    Ok(Outside::new(components, vec![service; limits.workers], limits, subject))
}

/// A service at its address. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Service {
    agent: Agent,
    /// Without a slash at its end.
    url: String,
    rewards: Arc<[String]>,
    components: Arc<[Component]>,
    limits: Limits,
}

/// One number of one reward.
#[derive(Clone, Debug, PartialEq)]
struct Component {
    reward: String,
    score: String,
    /// The reward has no other score.
    alone: bool,
}

#[derive(Serialize)]
struct Requests<'a> {
    requests: Vec<ScoreRequest<'a>>,
}

#[derive(Serialize)]
struct ScoreRequest<'a> {
    history: [Turn<'a>; 1],
    required_rewards: &'a [String],
    metadata: &'a About,
}

#[derive(Serialize)]
struct Turn<'a> {
    text: &'a str,
    image_b64: String,
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Map<String, Value>>,
    #[serde(default)]
    errors: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
struct Listed {
    rewards: Vec<String>,
}

impl Scorer for Service {
    fn ask(&mut self, samples: &[Sample]) -> Result<Vec<Vec<f64>>, Failure> {
        let answer = self.post(samples)?;
        let rows = answer.results.iter().zip(samples).map(|(result, sample)| {
            self.row(result).map_err(|why| {
                Failure::Permanent(format!(
                    "the service at {} returned a bad score for sample {}: {why}",
                    self.url, sample.about.sample
                ))
            })
        });
        rows.collect()
    }
}

impl Component {
    fn name(&self) -> String {
        if self.alone { self.reward.clone() } else { format!("{}.{}", self.reward, self.score) }
    }
}

impl Service {
    fn check_health(&self) -> Result<()> {
        let health: Value = self.insist(|| self.get("health"))?;
        if let Some(status) = health.get("status").and_then(Value::as_str).filter(|status| *status != "ok") {
            log::warn!("the service at {} reports its status as: {status}", self.url);
        }
        Ok(())
    }

    fn check_rewards(&self) -> Result<()> {
        let found: Listed = self.insist(|| self.get("rewards"))?;
        let known: Vec<&str> = found.rewards.iter().map(String::as_str).collect();
        let Some(unknown) = self.rewards.iter().find(|reward| !known.contains(&reward.as_str())) else { return Ok(()) };
        let hint = match nearest(unknown, &known) {
            Some(name) => format!("did you mean `{name}`?"),
            None => format!("it has {}", listed(&known)),
        };
        Err(Error::input(format!("the service at {} has no reward `{unknown}`; {hint}", self.url)))
    }

    /// What the scores of one sample are.
    fn components_of(&self, result: &Map<String, Value>) -> Result<Arc<[Component]>, String> {
        let mut components = Vec::new();
        for reward in self.rewards.iter() {
            let scores = self.scores_of(result, reward)?;
            let alone = scores.len() == 1;
            components.extend(scores.keys().map(|score| Component {
                reward: reward.clone(),
                score: score.clone(),
                alone,
            }));
        }
        Ok(components.into())
    }

    fn scores_of<'a>(&self, result: &'a Map<String, Value>, reward: &str) -> Result<&'a Map<String, Value>, String> {
        match result.get(reward) {
            Some(Value::Object(scores)) if !scores.is_empty() => Ok(scores),
            Some(other) => {
                Err(format!("`{reward}` is {}, not an object of scores", excerpt(other.to_string().as_bytes())))
            }
            None => Err(format!("`{reward}` is missing")),
        }
    }

    /// The scores of a sample, in the order of components.
    fn row(&self, result: &Map<String, Value>) -> Result<Vec<f64>, String> {
        let found = self.components_of(result)?;
        if found != self.components {
            let [found, expected] = [&found, &self.components]
                .map(|components| listed(&components.iter().map(Component::name).collect::<Vec<_>>()));
            return Err(format!("the scores are {found}, but at the start they were {expected}"));
        }
        let score = |part: &Component| {
            finite(&result[&part.reward][&part.score]).map_err(|why| format!("`{}` is {why}", part.name()))
        };
        self.components.iter().map(score).collect()
    }

    /// Requests the scores of samples. Returns exactly one result per sample, none of them an error.
    fn post<'a>(&'a self, samples: &'a [Sample]) -> Result<Answer, Failure> {
        let request = |Sample { png, about }: &'a Sample| ScoreRequest {
            history: [Turn { text: &about.prompt, image_b64: BASE64.encode(png) }],
            required_rewards: &self.rewards,
            metadata: about,
        };
        let requests = Requests { requests: samples.iter().map(request).collect() };
        let body = serde_json::to_vec(&requests).expect("plain data has a JSON form");
        let url = format!("{}/score", self.url);
        let sent = self.agent.post(&url).content_type("application/json").send(&body[..]);
        let answer: Answer = self.decode(&url, sent)?;
        for (errors, sample) in answer.errors.iter().zip(samples) {
            for reward in self.rewards.iter() {
                let error = match errors.get(reward) {
                    None | Some(Value::Null) => continue,
                    Some(Value::String(text)) if text.trim().is_empty() => continue,
                    Some(Value::String(text)) => excerpt(text.as_bytes()),
                    Some(other) => excerpt(other.to_string().as_bytes()),
                };
                // Such as a timeout or a worker that died: the service does not say which failures are temporary.
                return Err(Failure::Temporary(format!(
                    "the service at {} could not score sample {} with `{reward}`: {error}",
                    self.url, sample.about.sample
                )));
            }
        }
        for (what, found) in [("results", answer.results.len()), ("errors", answer.errors.len())] {
            if found != samples.len() && (what == "results" || found > 0) {
                let asked = samples.len();
                return Err(Failure::Permanent(format!("{url} returned {found} {what} for {asked} samples")));
            }
        }
        Ok(answer)
    }

    fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T, Failure> {
        let url = format!("{}/{path}", self.url);
        self.decode(&url, self.agent.get(&url).call())
    }

    /// Decodes a body, if there is one.
    fn decode<T: for<'de> Deserialize<'de>>(
        &self,
        url: &str,
        answer: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let no_answer = |cause| self.no_answer(url, cause);
        let mut answer = answer.map_err(no_answer)?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(LARGEST_BODY).read_to_vec().map_err(no_answer)?;
        if status != StatusCode::OK {
            let message = match answer.headers().get("location").filter(|_| status.is_redirection()) {
                Some(location) => {
                    // The requested path is not part of `url`.
                    let location = excerpt(location.as_bytes());
                    let base = location.strip_suffix(&url[self.url.len()..]).filter(|base| !base.is_empty());
                    format!("{url} redirects to {}: set `url` to that", base.unwrap_or(&location))
                }
                None => with_words(format!("{url} answered {status}"), &body),
            };
            let may_pass = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return Err(if may_pass { Failure::Temporary(message) } else { Failure::Permanent(message) });
        }
        serde_json::from_slice(without_mark(&body)).map_err(|cause| {
            Failure::Permanent(format!(
                "{url} answered {}: {}",
                quoted(&body, "an empty body"),
                why_no_json(&body, &cause)
            ))
        })
    }

    fn no_answer(&self, url: &str, cause: ureq::Error) -> Failure {
        match cause {
            ureq::Error::Timeout(_) => {
                let seconds = self.limits.timeout.as_secs_f64();
                Failure::Temporary(format!("{url} did not answer within {seconds} s (`timeout_seconds`)"))
            }
            ureq::Error::BodyExceedsLimit(limit) => {
                Failure::Permanent(format!("{url} answered with more than {} MiB", limit >> 20))
            }
            cause => Failure::Temporary(format!("{url} did not answer: {cause}; is the service running?")),
        }
    }

    /// Retries a request that is made at the start.
    fn insist<T>(&self, attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        insist(self.limits.retries, || false, attempt).map_err(Error::input)
    }
}

/// Checks an address, and removes a slash at its end.
pub(super) fn checked_url(url: &str) -> Result<String> {
    if url.contains('@') {
        // Not quoted, because it may contain a password.
        return Err(Error::input(
            "the reward `http` cannot use `url`: it has an @, but this program sends neither a name nor a password",
        ));
    }
    let refused = |why: &str| Error::input(format!("the reward `http` cannot use `url` = {url:?}: {why}"));
    let expected = "it should look like \"http://127.0.0.1:8080\"";
    let uri: Uri = url.parse().map_err(|cause| refused(&format!("{cause}; {expected}")))?;
    match uri.scheme_str() {
        Some("https") => {
            return Err(refused("this program has no TLS; use http://, and across networks a tunnel such as `ssh -L`"));
        }
        Some("http") => {}
        _ => return Err(refused(expected)),
    }
    let authority =
        uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(|| refused(expected))?;
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && !port[1..].parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(refused("its port must be a number from 1 to 65535"));
    }
    if url.contains(['?', '#']) {
        return Err(refused("it has a query or a fragment (? or #), but /score will be added to it"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}
