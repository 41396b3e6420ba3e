//! `#[derive(Module)]`: a struct of layers, parameters and plain settings becomes a module whose parameters are named
//! by the fields that lead to them.

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::{Attribute, Data, DeriveInput, Fields, Index, parse_macro_input};

/// Implements `Module` by visiting each field under its name (its number in a tuple struct).
///
/// Every field must be a module: a layer, a `Parameter`, a `Vec`, array, tuple or `Option` of modules, or a plain value
/// such as `usize`, `f32` or `bool`, which holds no parameters. `#[module(skip)]` leaves a field out. Enums visit the
/// fields of the variant they hold. `#[module(crate = path)]` on the type names where `Module` is found, for crates that
/// use `everstep-nn` without the facade; it is `::everstep::nn` otherwise.
#[proc_macro_derive(Module, attributes(module))]
pub fn derive_module(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
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

fn expand(input: &DeriveInput) -> syn::Result<Tokens> {
    let name = &input.ident;
    let path = settings(&input.attrs)?.path.unwrap_or_else(|| syn::parse_quote!(::everstep::nn));
    let (impl_generics, type_generics, where_clause) = input.generics.split_for_impl();
    let body = match &input.data {
        Data::Struct(data) => struct_body(&data.fields)?,
        Data::Enum(data) => {
            let arms = data.variants.iter().map(variant_arm).collect::<syn::Result<Vec<_>>>()?;
            quote! { match self { #(#arms)* } }
        }
        Data::Union(data) => {
            return Err(syn::Error::new(data.union_token.span, "`Module` cannot be derived for a union"));
        }
    };
    Ok(quote! {
        #[automatically_derived]
        impl #impl_generics #path::Module for #name #type_generics #where_clause {
            fn visit(&self, visitor: &mut #path::Visitor<'_>) {
                #body
            }
        }
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
    Ok(if calls.is_empty() {
        quote! { let _ = visitor; }
    } else {
        quote! { #(#calls)* }
    })
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
