//! Models on their way into a company: what stands before the calls of each is made when it starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::warn;

use super::secrets;
use crate::clock::Clock;
use crate::model::limits::{Door, Limits};
use crate::model::{Model, Sampling};
use crate::runtime::StartError;
use crate::session::shared::ModelEntry;
use crate::settings::{Environment, ModelSettings, PriceSettings, Provider, prices};

/// A model and what settings say of it.
#[derive(Clone, Debug)]
pub(super) struct Casting {
    model_name: String,
    model: Arc<dyn Model>,
    sampling: Sampling,
    pub(super) prices: Option<PriceSettings>,
    pub(super) limits: Limits,
    /// Tokens that a request and its answer may have together.
    pub(super) context_tokens: Option<u64>,
    /// What it is to its provider; those with the same share their limits.
    account: Option<String>,
}

impl Casting {
    /// A model made in code, with limits of its own.
    pub(super) fn own(name: &str, model: Arc<dyn Model>) -> Self {
        Self {
            model_name: name.to_owned(),
            model,
            sampling: Sampling::default(),
            prices: None,
            limits: Limits::default(),
            context_tokens: None,
            account: None,
        }
    }

    /// The model of `[models.NAME]`.
    pub(super) fn from_settings(
        name: &str,
        settings: &ModelSettings,
        environment: &Environment,
    ) -> Result<Self, StartError> {
        let key = secrets::key(settings, environment).map_err(|source| StartError::Key {
            model: name.to_owned(),
            path: settings.api_key_file.clone(),
            source,
        })?;
        let model = crate::model::build(name, settings, key)?;
        let casting = Self::of(settings, model);
        if casting.prices.is_none() {
            warn!(
                model = name,
                "the price of this model is not known, so that no cost is recorded; set models.NAME.prices"
            );
        }
        Ok(casting)
    }

    /// This model, which these settings made.
    pub(super) fn of(settings: &ModelSettings, model: Arc<dyn Model>) -> Self {
        Self {
            model_name: settings.model.clone(),
            model,
            sampling: Sampling {
                temperature: settings.temperature,
                max_tokens: settings.max_tokens,
                seed: settings.seed,
            },
            prices: prices::of(settings),
            limits: Limits::from(settings),
            context_tokens: settings.context_tokens,
            account: account(settings),
        }
    }
}

impl Casting {
    /// Where its door is.
    fn address(&self, name: &str) -> String {
        let own = || format!("own {name}");
        self.account.clone().unwrap_or_else(own)
    }
}

fn account(settings: &ModelSettings) -> Option<String> {
    let is_remote = match settings.provider {
        Provider::Offline | Provider::Scripted => false,
        Provider::Openai | Provider::Anthropic | Provider::Gemini | Provider::Ollama => true,
    };
    is_remote.then(|| {
        format!(
            "{:?} {} {} {} {}",
            settings.provider,
            settings.base_url,
            settings.model,
            settings.api_key_env,
            settings.api_key_file.display()
        )
    })
}

/// Models by name, and the doors before them.
pub(super) type WithDoors = (BTreeMap<String, Arc<ModelEntry>>, Doors);

/// Doors by what their models are to their provider, each with its limits.
pub(super) type Doors = BTreeMap<String, (Arc<Door>, Limits)>;

/// Puts a door before each model: the one that was there before, if there was one. Of those that
/// share one, the strictest limits count.
pub(super) fn with_doors(
    castings: BTreeMap<String, Casting>,
    before: &Doors,
    clock: &Arc<dyn Clock>,
) -> WithDoors {
    let mut doors = Doors::new();
    for (name, casting) in &castings {
        let made = || match before.get(&casting.address(name)) {
            Some((door, _)) => Arc::clone(door),
            None => Door::new(name, casting.limits, clock),
        };
        let (_, limits) = doors
            .entry(casting.address(name))
            .or_insert_with(|| (made(), casting.limits));
        *limits = limits.stricter(casting.limits);
    }
    let entry = |(name, casting): (String, Casting)| {
        let account = casting.address(&name);
        let (door, _) = doors.get(&account)?;
        let entry = ModelEntry {
            name: name.clone(),
            model_name: casting.model_name,
            account,
            model: casting.model,
            door: Arc::clone(door),
            sampling: casting.sampling,
            context_tokens: casting.context_tokens,
            prices: casting.prices,
        };
        Some((name, Arc::new(entry)))
    };
    (castings.into_iter().filter_map(entry).collect(), doors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn models_that_are_one_to_their_provider_share_a_door_and_others_do_not() {
        let settings = |model: &str, temperature| ModelSettings {
            provider: Provider::Ollama,
            model: model.to_owned(),
            temperature: Some(temperature),
            ..ModelSettings::default()
        };
        let environment = Environment::default();
        let castings = [
            ("calm", settings("llama", 0.1)),
            ("wild", settings("llama", 1.0)),
            ("other", settings("qwen", 1.0)),
        ];
        let castings = castings.map(|(name, settings)| {
            let casting = Casting::from_settings(name, &settings, &environment).unwrap();
            (name.to_owned(), casting)
        });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (entries, _) = with_doors(castings.into(), &Doors::new(), &clock);
        let door = |name: &str| Arc::as_ptr(&entries.get(name).unwrap().door);
        assert_eq!(door("calm"), door("wild"));
        assert_ne!(door("calm"), door("other"));
    }
}
