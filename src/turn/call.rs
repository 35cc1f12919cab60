//! A tool call whose outcome is owed, and whether it may run.

use crate::event::{ApprovalDecision, ApprovalRequest, Decision, EffectClass, Question, Timestamp};
use crate::id::Seq;

/// A tool call whose outcome is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCall {
    /// Its intent.
    pub of: Seq,
    /// The tool's name.
    pub tool: String,
    /// The arguments, JSON text.
    pub arguments: String,
    /// What a crash means.
    pub effect: EffectClass,
    /// Which run is owed; the first is 1.
    pub attempt: u32,
    /// The event that asks for this run: the intent, the restart, or a person's approval.
    pub owed_by: Seq,
    /// When the intent was recorded.
    pub since: Timestamp,
    /// It does not run before a person has allowed it.
    pub needs_approval: bool,
    /// Whether the run may begin.
    pub consent: Consent,
}

/// Whether a run may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Consent {
    /// It may.
    Given,
    /// A person has to say so; the question is not recorded yet.
    Needed,
    /// A person was asked.
    Asked(ApprovalRequest),
    /// It may not; only the outcome is not recorded yet.
    Refused(Question, ApprovalDecision),
}

impl OpenCall {
    /// What a person was asked, if no answer is recorded.
    #[must_use]
    pub const fn asked(&self) -> Option<&ApprovalRequest> {
        match &self.consent {
            Consent::Asked(asked) => Some(asked),
            Consent::Given | Consent::Needed | Consent::Refused(..) => None,
        }
    }

    /// Whether a run is owed now.
    #[must_use]
    pub fn may_run(&self) -> bool {
        self.consent == Consent::Given
    }

    /// Runs that have begun, or may have.
    pub(super) const fn runs(&self) -> u32 {
        match &self.consent {
            Consent::Given => self.attempt,
            Consent::Needed => self.attempt.saturating_sub(1),
            Consent::Asked(ApprovalRequest { question, .. }) | Consent::Refused(question, _) => {
                match question {
                    Question::Run => self.attempt.saturating_sub(1),
                    Question::RunAgain => self.attempt,
                }
            }
        }
    }

    pub(super) fn take_decision(&mut self, seq: Seq, decision: &ApprovalDecision) {
        let Some(asked) = self.asked() else { return };
        let question = asked.question;
        if decision.decision != Decision::Approved {
            self.consent = Consent::Refused(question, decision.clone());
            return;
        }
        if question == Question::RunAgain {
            self.attempt = self.attempt.saturating_add(1);
        }
        self.owed_by = seq;
        self.consent = Consent::Given;
    }
}
