//! What a model costs: what the settings say, or else the table of the crate `genai-prices`.
//!
//! Called where settings are checked and where models are made. A price that is not known is not
//! guessed. Never asks anybody: the table is built in.

use genai_prices::{Calculator, PriceRequest, Usage as Amount, UsageKey};

use crate::event::Usage;
use crate::settings::{ModelSettings, PriceSettings, Provider};

/// Prices are given per so many tokens.
const PRICED_TOKENS: f64 = 1e6;
/// So few tokens are asked about that no price for long requests is met.
const SAMPLE: f64 = 1_000.0;
/// What costs nothing.
const FREE: PriceSettings = PriceSettings {
    input: 0.0,
    cached: None,
    output: 0.0,
};

/// What this model costs; `None` when that is not known.
#[must_use]
pub fn of(model: &ModelSettings) -> Option<PriceSettings> {
    if model.prices.is_some() {
        return model.prices;
    }
    let provider = match model.provider {
        Provider::Offline | Provider::Scripted => return Some(FREE),
        Provider::Ollama => return None,
        Provider::Openai => "openai",
        Provider::Anthropic => "anthropic",
        Provider::Gemini => "google",
    };
    listed(provider, &model.base_url, &model.model)
}

/// The price in the table. An address of its own is looked up by that: who answers there under an
/// OpenAI model's name need not be OpenAI.
fn listed(provider: &str, base_url: &str, model: &str) -> Option<PriceSettings> {
    let calculator = Calculator::bundled();
    let found = if base_url.is_empty() {
        calculator.find_provider(Some(provider), None)
    } else {
        calculator.find_provider(None, Some(base_url))
    };
    let provider = found.ok()??.id();
    let price = |read: f64, cached: f64, written: f64| {
        let usage = Amount::from([
            (UsageKey::INPUT_TOKENS, read),
            (UsageKey::CACHE_READ_TOKENS, cached),
            (UsageKey::OUTPUT_TOKENS, written),
        ]);
        let request = PriceRequest::new(model, &usage).with_provider_id(provider);
        let price = calculator.calculate(&request).ok()?;
        // The table may go on to look with another provider.
        (price.provider_id == provider).then_some(price.total_price / SAMPLE * PRICED_TOKENS)
    };
    Some(PriceSettings {
        input: price(SAMPLE, 0.0, 0.0)?,
        cached: Some(price(SAMPLE, SAMPLE, 0.0)?),
        output: price(0.0, 0.0, SAMPLE)?,
    })
}

impl PriceSettings {
    /// What these tokens cost, USD: `(input - cached) · self.input + cached · self.cached + output ·
    /// self.output`, each price per million tokens. Without a price for cached tokens they cost as
    /// much as others. Reasoning is part of the output.
    #[must_use]
    pub fn cost_usd(&self, usage: &Usage) -> f64 {
        let cached = usage.cached.min(usage.input);
        let cached_price = self.cached.unwrap_or(self.input);
        let sum = float(usage.input - cached) * self.input
            + float(cached) * cached_price
            + float(usage.output) * self.output;
        sum / PRICED_TOKENS
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 tokens, far more than anybody pays for"
)]
const fn float(tokens: u64) -> f64 {
    tokens as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(provider: Provider, name: &str, base_url: &str) -> ModelSettings {
        ModelSettings {
            provider,
            model: name.to_owned(),
            base_url: base_url.to_owned(),
            ..ModelSettings::default()
        }
    }

    #[test]
    fn cached_tokens_have_their_own_price_where_it_is_set() {
        let usage = Usage {
            input: 10_000,
            cached: 8_000,
            output: 500,
            reasoning: 100,
        };
        let prices = PriceSettings {
            input: 3.0,
            cached: Some(0.3),
            output: 15.0,
        };
        assert!((prices.cost_usd(&usage) - 0.0159).abs() < 1e-12);
        let without = PriceSettings {
            cached: None,
            ..prices
        };
        assert!((without.cost_usd(&usage) - 0.0375).abs() < 1e-12);
    }

    #[test]
    fn known_models_have_the_prices_of_the_table() {
        let table = [
            (Provider::Openai, "gpt-4o-mini", 0.15, 0.075, 0.6),
            (
                Provider::Anthropic,
                "claude-3-5-haiku-latest",
                0.8,
                0.08,
                4.0,
            ),
        ];
        for (provider, name, input, cached, output) in table {
            let prices = of(&model(provider, name, "")).unwrap();
            let near = |price: f64, expected: f64| (price - expected).abs() < 1e-9;
            assert!(near(prices.input, input), "{name}: {prices:?}");
            assert!(near(prices.cached.unwrap(), cached), "{name}: {prices:?}");
            assert!(near(prices.output, output), "{name}: {prices:?}");
        }
    }

    #[test]
    fn an_unknown_price_is_not_guessed() {
        let nobody = [
            model(Provider::Openai, "no-such-model", ""),
            model(Provider::Openai, "gpt-4o-mini", "http://127.0.0.1:8080/v1/"),
            model(Provider::Openai, "claude-3-5-haiku-latest", ""),
            model(Provider::Ollama, "llama3", ""),
        ];
        for model in nobody {
            assert_eq!(of(&model), None, "{}", model.model);
        }
    }

    #[test]
    fn stand_ins_cost_nothing_and_the_settings_win() {
        assert_eq!(of(&ModelSettings::default()), Some(FREE));
        let own = PriceSettings { input: 7.0, ..FREE };
        let mut model = model(Provider::Openai, "gpt-4o-mini", "");
        model.prices = Some(own);
        assert_eq!(of(&model), Some(own));
    }
}
