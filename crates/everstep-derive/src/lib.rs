//! `#[derive(Module)]`: a struct of layers, parameters and plain settings becomes a module whose parameters are named
//! by the fields that lead to them.

use proc_macro::TokenStream;
use proc_macro2::{TokenStream as Tokens, TokenTree};
use quote::{ToTokens, format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Field, Fields, Index, parse_macro_input};

/// Implements `Module` by visiting each field under its name (its number in a tuple struct).
///
/// Every field must be a module: a layer, a `Parameter`, a `Vec`, array, tuple or `Option` of modules, or a plain value
/// such as `usize`, `f32` or `bool`, which holds no parameters. `#[module(skip)]` leaves a field out. Enums visit the
/// fields of the variant they hold. `#[module(crate = path)]` on the type names where `Module` is found, for crates that
/// use `everstep-nn` without the facade; it is `::everstep::nn` otherwise. Type parameters that fields use must be modules.
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// What `#[module(..)]` says.
#[derive(Default)]
struct Settings {
    skip: bool,
    path: Option<syn::Path>,
}

fn settings(attributes: &[Attribute]) -> syn::Result<Settings> {
    let mut settings = Settings::default();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("module")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("skip") {
                settings.skip = true;
                Ok(())
            } else if meta.path.is_ident("crate") {
                settings.path = Some(meta.value()?.parse()?);
                Ok(())
            } else {
                Err(meta.error("expected `skip` or `crate = path`"))
            }
        })?;
    }
    Ok(settings)
}

fn expand(mut input: DeriveInput) -> syn::Result<Tokens> {
    let path = settings(&input.attrs)?.path.unwrap_or_else(|| syn::parse_quote!(::everstep::nn));
    let body = match &input.data {
        Data::Struct(data) => struct_body(&data.fields)?,
        Data::Enum(data) if data.variants.is_empty() => quote! { match *self {} },
        Data::Enum(data) => {
            let arms = data.variants.iter().map(variant_arm).collect::<syn::Result<Vec<_>>>()?;
            quote! { match self { #(#arms)* } }
        }
        Data::Union(data) => {
            return Err(syn::Error::new(data.union_token.span, "`Module` cannot be derived for a union"));
        }
    };
    bound(&mut input, &path)?;
    let name = &input.ident;
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #path::Module for #name #type_generics #where_clause {
            fn visit(&self, visitor: &mut #path::Visitor<'_>) {
                let _ = &visitor;
                #body
            }
        }
    })
}

/// Requires `Module` of each type parameter that a visited field uses.
fn bound(input: &mut DeriveInput, path: &syn::Path) -> syn::Result<()> {
    let fields: Vec<&Field> = match &input.data {
        Data::Struct(data) => data.fields.iter().collect(),
        Data::Enum(data) => data.variants.iter().flat_map(|variant| &variant.fields).collect(),
        Data::Union(_) => Vec::new(),
    };
    let mut visited = Vec::new();
    for field in fields {
        if !settings(&field.attrs)?.skip && !is_phantom(&field.ty) {
            visited.push(field.ty.to_token_stream());
        }
    }
    let parameters = input.generics.type_params().map(|parameter| &parameter.ident);
    let used = parameters.filter(|ident| visited.iter().any(|ty| mentions(ty.clone(), ident)));
    let predicates: Vec<syn::WherePredicate> = used.map(|ident| syn::parse_quote!(#ident: #path::Module)).collect();
    if !predicates.is_empty() {
        input.generics.make_where_clause().predicates.extend(predicates);
    }
    Ok(())
}

/// `PhantomData` is a module whatever it is of.
fn is_phantom(ty: &syn::Type) -> bool {
    matches!(ty, syn::Type::Path(ty) if ty.path.segments.last().is_some_and(|segment| segment.ident == "PhantomData"))
}

fn mentions(tokens: Tokens, ident: &syn::Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(found) => found == *ident,
        TokenTree::Group(group) => mentions(group.stream(), ident),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

fn struct_body(fields: &Fields) -> syn::Result<Tokens> {
    let mut calls = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        if settings(&field.attrs)?.skip {
            continue;
        }
        calls.push(match &field.ident {
            Some(ident) => {
                let name = plain(ident);
                quote! { visitor.child(#name, &self.#ident); }
            }
            None => {
                let (name, member) = (index.to_string(), Index::from(index));
                quote! { visitor.child(#name, &self.#member); }
            }
        });
    }
    Ok(quote! { #(#calls)* })
}

fn variant_arm(variant: &syn::Variant) -> syn::Result<Tokens> {
    let ident = &variant.ident;
    let (mut patterns, mut calls) = (Vec::new(), Vec::new());
    for (index, field) in variant.fields.iter().enumerate() {
        let bound = format_ident!("field{}", index);
        let name = field.ident.as_ref().map_or_else(|| index.to_string(), plain);
        let skip = settings(&field.attrs)?.skip;
        let binding = if skip {
            quote! { _ }
        } else {
            quote! { #bound }
        };
        patterns.push(match &field.ident {
            Some(field) => quote! { #field: #binding },
            None => binding,
        });
        if !skip {
            calls.push(quote! { visitor.child(#name, #bound); });
        }
    }
    let pattern = match &variant.fields {
        Fields::Named(_) => quote! { { #(#patterns),* } },
        Fields::Unnamed(_) => quote! { ( #(#patterns),* ) },
        Fields::Unit => quote! {},
    };
    Ok(quote! { Self::#ident #pattern => { #(#calls)* } })
}

/// The name without `r#`.
fn plain(ident: &syn::Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syn::parse_quote;

    /// The message of the compile error that the input gives.
    fn refusal(input: DeriveInput) -> String {
        expand(input).unwrap_err().to_string()
    }

    #[test]
    fn what_cannot_be_a_module_is_refused_with_a_reason() {
        let union = parse_quote! { union Bits { number: u32, float: f32 } };
        assert_eq!(refusal(union), "`Module` cannot be derived for a union");
        let unknown = parse_quote! { struct Layer { #[module(skipp)] weight: Parameter } };
        assert_eq!(refusal(unknown), "expected `skip` or `crate = path`");
    }

    #[test]
    fn only_type_parameters_of_visited_fields_are_bounded() {
        let code = expand(parse_quote! {
            struct Layer<M, S: Clone, const N: usize> { inner: Vec<[M; N]>, #[module(skip)] settings: S }
        });
        let code = code.unwrap().to_string();
        assert!(code.contains("where M : :: everstep :: nn :: Module {"), "{code}");
    }
}
