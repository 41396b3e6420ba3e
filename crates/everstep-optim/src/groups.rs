//! Parameter groups: some parameters follow other settings.

use std::fmt;

use everstep_nn::{Module, Pattern};
use everstep_tensor::Parameter;

use crate::{Error, Optimizer, Result, Rule};

/// An optimizer in the making: which parameters follow which settings of one rule.
///
/// A group is named by a glob pattern over parameter names: `*` stands for any characters, dots too, `?` for one,
/// `[ab]` for one of these, `{weight,bias}` for one of these words. A parameter belongs to the first group whose pattern
/// matches its name, and to the rule that [`Rule::groups`] was called on where none does. Learning-rate schedules scale
/// each group's own rate.
///
/// ```
/// # use everstep_nn::{Linear, Module};
/// # use everstep_optim::{AdamW, Rule};
/// # use everstep_tensor::{Device, Generator};
/// # let model = Linear::new(4, 2, &mut Generator::new(0), &Device::cpu())?;
/// // No decay on biases, and a lower rate.
/// let plain = AdamW::new(1e-4).weight_decay(0.0);
/// let optimizer = AdamW::new(1e-3).weight_decay(0.1).groups(&model).group("*bias", plain)?.build()?;
/// assert_eq!(optimizer.arena().groups().len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Groups<'a, R, M> {
    model: &'a M,
    // Every parameter with its name and its group.
    parameters: Vec<(String, Parameter, usize)>,
    rules: Vec<R>,
}

impl<'a, R: Rule, M: Module> Groups<'a, R, M> {
    pub(crate) fn new(rule: R, model: &'a M) -> Self {
        let parameters = model.named_parameters().into_iter().map(|(name, parameter)| (name, parameter, 0)).collect();
        Self { model, parameters, rules: vec![rule] }
    }

    /// The parameters that match `pattern`, and no earlier group's, follow `rule`. A tied parameter has the first name
    /// that leads to it.
    ///
    /// # Errors
    /// [`everstep_nn::Error::Pattern`] where it is none, [`everstep_nn::Error::NoMatch`] where no parameter's name matches
    /// it, [`Error::EmptyGroup`] where each that does belongs to an earlier group; [`Error::Setting`].
    pub fn group(mut self, pattern: &str, rule: R) -> Result<Self> {
        rule.check()?;
        let matches = Pattern::new(pattern)?;
        let group = self.rules.len();
        let (mut matched, mut taken) = (false, false);
        for (name, _, own) in &mut self.parameters {
            if matches.matches(name) {
                matched = true;
                if *own == 0 {
                    (*own, taken) = (group, true);
                }
            }
        }
        match (matched, taken) {
            (false, _) => Err(everstep_nn::Error::NoMatch { pattern: pattern.into() }.into()),
            (true, false) => Err(Error::EmptyGroup { pattern: pattern.into() }),
            (true, true) => {
                self.rules.push(rule);
                Ok(self)
            }
        }
    }

    /// The optimizer. Its groups are the rest, then the named ones in their order.
    ///
    /// # Errors
    /// As [`Rule::build`].
    pub fn build(self) -> Result<Optimizer> {
        let mut members = vec![Vec::new(); self.rules.len()];
        for (_, parameter, group) in self.parameters {
            members[group].push(parameter);
        }
        let rules = self.rules.into_iter().map(|rule| Box::new(rule) as Box<dyn Rule>).collect();
        Optimizer::from_groups(rules, &members, self.model)
    }
}

impl<R: fmt::Debug, M> fmt::Debug for Groups<'_, R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |group: usize| self.parameters.iter().filter(|parameter| parameter.2 == group).count();
        f.debug_list().entries(self.rules.iter().enumerate().map(|(group, rule)| (rule, count(group)))).finish()
    }
}
