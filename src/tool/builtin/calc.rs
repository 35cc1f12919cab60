//! `calc`: works out an arithmetic expression.
//!
//! Called like every tool. A small parser of its own: the libraries at hand know no exact
//! integers and read `-2^2` as 4. Whole numbers stay exact as long as they fit 128 bits; all else
//! is a 64-bit float, shown with 15 digits. Text and nesting are bounded; nothing panics.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::tool::builtin::calc::number::{Number, constant, function};
use crate::tool::builtin::text;
use crate::tool::{Invocation, Tool, ToolError, ToolSpec};

mod number;

/// An expression has at most so many bytes.
const LONGEST: usize = 1_000;
/// At most so many parentheses, signs and powers stand inside one another.
const DEEPEST: u32 = 64;

/// Works out an expression.
#[derive(Debug)]
pub struct Calc {
    spec: ToolSpec,
}

impl Calc {
    /// The tool.
    #[must_use]
    pub const fn new(spec: ToolSpec) -> Self {
        Self { spec }
    }

    /// For the model.
    pub(crate) const DESCRIPTION: &'static str = "Works out an arithmetic expression, such as \
        (2+3)*4^2/7. Operators: + - * / % ^ and !. Constants: pi, e, tau. Functions: sqrt, cbrt, \
        abs, exp, ln, log2, log10, log(x, base), sin, cos, tan, asin, acos, atan, atan2, sinh, \
        cosh, tanh, floor, ceil, round, trunc, sign, min, max, hypot, gcd, lcm, degrees, radians. \
        Angles are radians.";

    /// JSON Schema of the arguments.
    pub(crate) fn parameters() -> Value {
        json!({
            "type": "object",
            "properties": {
                "expression": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": LONGEST,
                    "description": "For example 12*(3+4)^2 or sqrt(2)/3."
                }
            },
            "required": ["expression"],
            "additionalProperties": false
        })
    }
}

impl Tool for Calc {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn kind(&self) -> &'static str {
        "builtin"
    }

    fn call(&self, invocation: Invocation) -> BoxFuture<'static, Result<String, ToolError>> {
        let result = text(&invocation.arguments, "expression")
            .and_then(|expression| evaluate(&expression).map_err(ToolError::Failed));
        std::future::ready(result).boxed()
    }
}

/// The value of an expression.
///
/// # Errors
/// What is wrong with it, and where.
pub fn evaluate(expression: &str) -> Result<String, String> {
    if expression.len() > LONGEST {
        return Err(format!(
            "the expression has {} bytes, at most {LONGEST} are read; split it",
            expression.len()
        ));
    }
    let mut parser = Parser {
        text: expression,
        at: 0,
        depth: 0,
    };
    let value = parser.sum()?;
    match parser.peek() {
        None => value.render(),
        Some(unexpected) => Err(parser.fault(&format!("{unexpected:?} is not expected"))),
    }
}

/// Reads an expression from left to right and works it out on the way.
struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

impl Parser<'_> {
    /// product { (+|-) product }
    fn sum(&mut self) -> Result<Number, String> {
        let mut left = self.product()?;
        loop {
            if self.take("+") {
                left = left.add(self.product()?);
            } else if self.take("-") {
                left = left.subtract(self.product()?);
            } else {
                return Ok(left);
            }
        }
    }

    /// signed { (*|/|%) signed }
    fn product(&mut self) -> Result<Number, String> {
        let mut left = self.signed()?;
        loop {
            if self.take("*") {
                left = left.multiply(self.signed()?);
            } else if self.take("/") {
                left = left.divide(self.signed()?)?;
            } else if self.take("%") {
                left = left.remainder(self.signed()?)?;
            } else {
                return Ok(left);
            }
        }
    }

    /// (+|-) signed, or a power: a sign binds weaker than a power.
    fn signed(&mut self) -> Result<Number, String> {
        self.enter()?;
        let value = if self.take("-") {
            self.signed()?.negate()
        } else if self.take("+") {
            self.signed()?
        } else {
            self.power()?
        };
        self.depth -= 1;
        Ok(value)
    }

    /// factorial [ ^ signed ]: powers group from the right.
    fn power(&mut self) -> Result<Number, String> {
        let base = self.factorial()?;
        if self.take("**") || self.take("^") {
            let exponent = self.signed()?;
            return base.power(exponent);
        }
        Ok(base)
    }

    /// atom { ! }
    fn factorial(&mut self) -> Result<Number, String> {
        let mut value = self.atom()?;
        while self.take("!") {
            value = value.factorial()?;
        }
        Ok(value)
    }

    /// A number, a constant, a function or a sum in parentheses.
    fn atom(&mut self) -> Result<Number, String> {
        if self.take("(") {
            let value = self.sum()?;
            return self.close().map(|()| value);
        }
        match self.peek() {
            Some(first) if first.is_ascii_digit() || first == '.' => self.number(),
            Some(first) if first.is_ascii_alphabetic() => self.named(),
            Some(unexpected) => Err(self.fault(&format!("{unexpected:?} is not expected"))),
            None => Err(self.fault("the expression ends too early")),
        }
    }

    /// Digits, with a fraction and an exponent if there are any.
    fn number(&mut self) -> Result<Number, String> {
        let rest = self.rest();
        let mut end = span(rest, 0, |c| c.is_ascii_digit() || c == '.' || c == '_');
        let exponent = rest.get(end..).unwrap_or_default();
        if exponent.starts_with(['e', 'E']) {
            let digits = exponent.get(1..).unwrap_or_default();
            let sign = usize::from(digits.starts_with(['+', '-']));
            let length = span(digits, sign, |c| c.is_ascii_digit());
            if length > sign {
                end += 1 + length;
            }
        }
        let word = rest.get(..end).unwrap_or_default();
        let parsed = Number::parse(word);
        let parsed = parsed.ok_or_else(|| self.fault(&format!("{word:?} is not a number")))?;
        self.at += end;
        Ok(parsed)
    }

    /// A constant, or a function with its arguments.
    fn named(&mut self) -> Result<Number, String> {
        let rest = self.rest();
        let end = span(rest, 0, |c| c.is_ascii_alphanumeric());
        let name = rest.get(..end).unwrap_or_default().to_lowercase();
        let before = self.fault("");
        self.at += end;
        if self.take("(") {
            let arguments = self.arguments()?;
            return function(&name, &arguments);
        }
        constant(&name)
            .ok_or_else(|| format!("there is no constant or function named {name:?}{before}"))
    }

    /// sum { , sum } )
    fn arguments(&mut self) -> Result<Vec<Number>, String> {
        let mut arguments = Vec::new();
        if self.take(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.sum()?);
            if !self.take(",") {
                return self.close().map(|()| arguments);
            }
        }
    }

    fn close(&mut self) -> Result<(), String> {
        if self.take(")") {
            return Ok(());
        }
        Err(self.fault("a closing parenthesis is missing"))
    }

    /// One level deeper; too deep is a fault.
    fn enter(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!(
                "more than {DEEPEST} levels stand inside one another; split the expression"
            ));
        }
        Ok(())
    }

    /// Steps over this sign if it stands here. A `*` of `**` does not count as one of its own.
    fn take(&mut self, sign: &str) -> bool {
        self.peek();
        let rest = self.rest();
        let is_here = rest.starts_with(sign) && !(sign == "*" && rest.starts_with("**"));
        if is_here {
            self.at += sign.len();
        }
        is_here
    }

    /// Steps over white space and looks at what comes.
    fn peek(&mut self) -> Option<char> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        self.rest().chars().next()
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn fault(&self, what: &str) -> String {
        let position = self.text.get(..self.at).unwrap_or_default();
        format!("{what} (at character {})", position.chars().count() + 1)
    }
}

/// How far the characters from `start` on are of this kind.
fn span(text: &str, start: usize, is_kind: impl Fn(char) -> bool) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    start + rest.find(|c| !is_kind(c)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn expressions_have_the_value_that_people_expect() {
        let table = [
            ("1+2*3", "7"),
            ("(1+2)*3", "9"),
            ("-2^2", "-4"),
            ("(-2)^2", "4"),
            ("2^3^2", "512"),
            ("2**10", "1024"),
            ("2^-1", "0.5"),
            ("7/2", "3.5"),
            ("6/2", "3"),
            ("-7 % 3", "-1"),
            ("10 - 4 - 3", "3"),
            ("5!", "120"),
            ("0.1+0.2", "0.3"),
            ("1e3", "1000"),
            ("1.5e-3*2", "0.003"),
            ("1_000_000", "1000000"),
            ("sqrt(16)", "4"),
            ("sqrt(2)", "1.4142135623731"),
            ("log(8, 2)", "3"),
            ("log10(1000)", "3"),
            ("ln(e)", "1"),
            ("max(1, 2, 3) - min(4, 5)", "-1"),
            ("gcd(12, 18) + lcm(4, 6)", "18"),
            ("round(2.5) + floor(-1.5)", "1"),
            ("cos(pi)", "-1"),
            ("2e", "__error"),
            ("99999999999999999999 * 99999999999999999999", "__approx"),
            (
                "123456789012345678901234567890 + 1",
                "123456789012345678901234567891",
            ),
            ("30!", "265252859812191058636308480000000"),
            ("1e400", "__error"),
        ];
        for (expression, expected) in table {
            let value = evaluate(expression);
            match expected {
                "__error" => assert!(value.is_err(), "{expression}: {value:?}"),
                "__approx" => assert_eq!(value.unwrap(), "1e40", "{expression}"),
                _ => assert_eq!(value, Ok(expected.to_owned()), "{expression}"),
            }
        }
    }

    #[test]
    fn faults_say_what_and_where() {
        let table = [
            ("1/0", "division by zero"),
            ("5 % 0", "division by zero"),
            ("2 +", "ends too early"),
            ("(1+2", "closing parenthesis"),
            ("2 $ 3", "'$' is not expected (at character 3)"),
            ("foo(1)", "no function named \"foo\""),
            ("bar", "named \"bar\" (at character 1)"),
            ("sqrt(-1)", "not a finite number"),
            ("sqrt(1, 2)", "sqrt takes 1"),
            ("1.2.3", "is not a number"),
            ("(-3)!", "factorial"),
            ("10^10^10", "too large"),
        ];
        for (expression, expected) in table {
            let fault = evaluate(expression).unwrap_err();
            assert!(fault.contains(expected), "{expression}: {fault}");
        }
    }

    #[test]
    fn deep_and_long_expressions_are_refused() {
        for expression in [
            "(".repeat(900),
            "-".repeat(900),
            "2^".repeat(450),
            "sqrt(".repeat(190),
        ] {
            assert!(evaluate(&expression).unwrap_err().contains("levels"));
        }
        assert!(evaluate(&"1+".repeat(5_000)).unwrap_err().contains("bytes"));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,60}") {
            let _answer = evaluate(&text);
        }

        #[test]
        fn nothing_that_looks_like_an_expression_panics(
            text in "([0-9]{1,20}|[-+*/%^!().,e ]|sqrt\\(|gcd\\(|lcm\\(|round\\(|log\\(|1e308){0,40}"
        ) {
            let _answer = evaluate(&text);
        }

        #[test]
        fn whole_numbers_are_exact(a in -1_000_000_000_i64.., b in -1_000_000_000_i64..) {
            let product = i128::from(a) * i128::from(b);
            prop_assert_eq!(evaluate(&format!("{a} * {b}")), Ok(product.to_string()));
        }
    }
}
