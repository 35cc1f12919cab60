//! The numbers of `calc`: whole ones are exact up to 128 bits, all others are 64-bit floats.
//!
//! Called by the parser of `calc` only. What overflows becomes a float; what is no finite number
//! is a fault when it is shown.

/// A number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// Exact.
    Whole(i128),
    /// To about 15 digits.
    Real(f64),
}

use Number::{Real, Whole};

/// Whole floats below this are exact.
const EXACT: f64 = 9_007_199_254_740_992.0;

impl Number {
    /// A number as it is written, with `_` between digits.
    pub(super) fn parse(word: &str) -> Option<Self> {
        let word = word.replace('_', "");
        if let Ok(whole) = word.parse() {
            return Some(Whole(whole));
        }
        word.parse()
            .ok()
            .filter(|real: &f64| real.is_finite())
            .map(Real)
    }

    /// As text: whole numbers in full, others with up to 15 digits.
    pub(super) fn render(self) -> Result<String, String> {
        match self {
            Whole(whole) => Ok(whole.to_string()),
            Real(real) if real.is_finite() => {
                let rounded: f64 = format!("{real:.14e}").parse().unwrap_or(real);
                Ok(match rounded.abs() {
                    0.0 => "0".to_owned(),
                    size if (1e-7..1e15).contains(&size) => rounded.to_string(),
                    _ => format!("{rounded:e}"),
                })
            }
            Real(_) => Err("the result is too large or not a finite number".to_owned()),
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a float is the nearest there is"
    )]
    pub(super) const fn real(self) -> f64 {
        match self {
            Whole(whole) => whole as f64,
            Real(real) => real,
        }
    }

    pub(super) fn add(self, other: Self) -> Self {
        self.combine(other, i128::checked_add, |a, b| a + b)
    }

    pub(super) fn subtract(self, other: Self) -> Self {
        self.combine(other, i128::checked_sub, |a, b| a - b)
    }

    pub(super) fn multiply(self, other: Self) -> Self {
        self.combine(other, i128::checked_mul, |a, b| a * b)
    }

    pub(super) fn negate(self) -> Self {
        Whole(0).subtract(self)
    }

    pub(super) fn divide(self, other: Self) -> Result<Self, String> {
        if other.real() == 0.0 {
            return Err("division by zero".to_owned());
        }
        let exact = |a: i128, b: i128| match a.checked_rem(b) {
            Some(0) => a.checked_div(b),
            Some(_) | None => None,
        };
        Ok(self.combine(other, exact, |a, b| a / b))
    }

    pub(super) fn remainder(self, other: Self) -> Result<Self, String> {
        if other.real() == 0.0 {
            return Err("division by zero".to_owned());
        }
        Ok(self.combine(other, i128::checked_rem, |a, b| a % b))
    }

    pub(super) fn power(self, exponent: Self) -> Result<Self, String> {
        let exact = |a: i128, b: i128| u32::try_from(b).ok().and_then(|b| a.checked_pow(b));
        self.combine(exponent, exact, f64::powf).finite()
    }

    pub(super) fn factorial(self) -> Result<Self, String> {
        let n = match self.whole() {
            Some(n @ 0..=170) => n,
            Some(_) | None => {
                return Err("a factorial needs a whole number from 0 to 170".to_owned());
            }
        };
        Ok((2..=n).fold(Whole(1), |product, factor| product.multiply(Whole(factor))))
    }

    /// Exactly where both are whole and the result fits, else as floats.
    fn combine(
        self,
        other: Self,
        exact: impl Fn(i128, i128) -> Option<i128>,
        about: impl Fn(f64, f64) -> f64,
    ) -> Self {
        let whole = match (self, other) {
            (Whole(a), Whole(b)) => exact(a, b),
            (Whole(_) | Real(_), Whole(_) | Real(_)) => None,
        };
        whole.map_or_else(|| Real(about(self.real(), other.real())), Whole)
    }

    /// As a whole number, if it is one.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole and below 2^53: nothing is cut"
    )]
    fn whole(self) -> Option<i128> {
        match self {
            Whole(whole) => Some(whole),
            Real(real) if real.fract() == 0.0 && real.abs() < EXACT => Some(real as i128),
            Real(_) => None,
        }
    }

    /// Exact again, where a float is a whole number.
    fn settle(self) -> Self {
        self.whole().map_or(self, Whole)
    }

    fn finite(self) -> Result<Self, String> {
        if self.real().is_finite() {
            return Ok(self);
        }
        Err("the result is too large or not a finite number".to_owned())
    }
}

/// The constant with this name.
pub(super) fn constant(name: &str) -> Option<Number> {
    match name {
        "pi" => Some(Real(std::f64::consts::PI)),
        "tau" => Some(Real(std::f64::consts::TAU)),
        "e" => Some(Real(std::f64::consts::E)),
        _ => None,
    }
}

/// The value of a function.
pub(super) fn function(name: &str, arguments: &[Number]) -> Result<Number, String> {
    if let Some(apply) = of_one(name) {
        return match arguments {
            [x] => apply(*x).finite(),
            _ => Err(takes(name, "1 argument", arguments.len())),
        };
    }
    if let Some(apply) = of_two(name) {
        return match arguments {
            [x, y] => apply(*x, *y)?.finite(),
            [x] if name == "log" => Real(x.real().log10()).settle().finite(),
            _ => Err(takes(name, "2 arguments", arguments.len())),
        };
    }
    match (name, arguments) {
        ("min" | "max", []) => Err(takes(name, "at least 1 argument", 0)),
        ("min", [first, rest @ ..]) => {
            Ok(rest.iter().fold(
                *first,
                |best, x| {
                    if x.real() < best.real() { *x } else { best }
                },
            ))
        }
        ("max", [first, rest @ ..]) => {
            Ok(rest.iter().fold(
                *first,
                |best, x| {
                    if x.real() > best.real() { *x } else { best }
                },
            ))
        }
        _ => Err(format!("there is no function named {name:?}")),
    }
}

fn takes(name: &str, wanted: &str, given: usize) -> String {
    format!("{name} takes {wanted}, {given} were given")
}

/// Functions of one argument.
fn of_one(name: &str) -> Option<fn(Number) -> Number> {
    Some(match name {
        "sqrt" => |x| Real(x.real().sqrt()).settle(),
        "cbrt" => |x| Real(x.real().cbrt()).settle(),
        "abs" => |x| if x.real() < 0.0 { x.negate() } else { x },
        "exp" => |x| Real(x.real().exp()),
        "ln" => |x| Real(x.real().ln()),
        "log2" => |x| Real(x.real().log2()),
        "log10" => |x| Real(x.real().log10()),
        "sin" => |x| Real(x.real().sin()),
        "cos" => |x| Real(x.real().cos()),
        "tan" => |x| Real(x.real().tan()),
        "asin" => |x| Real(x.real().asin()),
        "acos" => |x| Real(x.real().acos()),
        "atan" => |x| Real(x.real().atan()),
        "sinh" => |x| Real(x.real().sinh()),
        "cosh" => |x| Real(x.real().cosh()),
        "tanh" => |x| Real(x.real().tanh()),
        "degrees" => |x| Real(x.real().to_degrees()),
        "radians" => |x| Real(x.real().to_radians()),
        "floor" => |x| rounded(x, f64::floor),
        "ceil" => |x| rounded(x, f64::ceil),
        "round" => |x| rounded(x, f64::round),
        "trunc" => |x| rounded(x, f64::trunc),
        "sign" => |x| Whole(i128::from(x.real() > 0.0) - i128::from(x.real() < 0.0)),
        _ => return None,
    })
}

/// Whole numbers stay what they are.
fn rounded(x: Number, round: fn(f64) -> f64) -> Number {
    match x {
        Whole(_) => x,
        Real(real) => Real(round(real)).settle(),
    }
}

type OfTwo = fn(Number, Number) -> Result<Number, String>;

/// Functions of two arguments.
fn of_two(name: &str) -> Option<OfTwo> {
    Some(match name {
        "atan2" => |y, x| Ok(Real(y.real().atan2(x.real()))),
        "hypot" => |x, y| Ok(Real(x.real().hypot(y.real())).settle()),
        "log" => |x, base| Ok(Real(x.real().log(base.real()))),
        "pow" => Number::power,
        "mod" => Number::remainder,
        "gcd" => |a, b| whole_pair(a, b).map(|(a, b)| Whole(divisor(a, b))),
        "lcm" => |a, b| {
            let (a, b) = whole_pair(a, b)?;
            match divisor(a, b) {
                0 => Ok(Whole(0)),
                divisor => Ok(Whole(a / divisor).multiply(Whole(b))),
            }
        },
        _ => return None,
    })
}

/// Both without their signs, if both are whole.
fn whole_pair(a: Number, b: Number) -> Result<(i128, i128), String> {
    let size = |x: Number| x.whole().and_then(i128::checked_abs);
    size(a)
        .zip(size(b))
        .ok_or_else(|| "gcd and lcm need whole numbers".to_owned())
}

/// The greatest common divisor of two numbers that are not negative.
const fn divisor(mut a: i128, mut b: i128) -> i128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
