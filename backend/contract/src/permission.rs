//! Roles, and what each may do.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Leave for one kind of thing.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Permission {
    /// Reads one's own memories.
    ReadMemories,
    /// Makes and changes one's own memories.
    WriteMemories,
    /// Reads one's own clusters.
    ReadClusters,
    /// Makes credentials of one's own.
    ManageOwnKeys,
    /// Runs the policies that move and summarise memories.
    ExecutePolicies,
    /// Reads the audit trail.
    ReadAudit,
    /// Reads and changes what belongs to other users.
    ManageUsers,
}

/// A named set of permissions.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Retrieves own memories, and cannot create or change any.
    Readonly,
    /// Reads and writes own memories only.
    User,
    /// Reads and writes all memories, runs policies, manages users.
    Admin,
}

/// The roles of one subject. A subject without any may do nothing.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Roles(u8);

/// A set of permissions, as an API key is given it.
#[derive(Clone, Copy, Default, Eq, Hash, PartialEq)]
pub struct Permissions(u16);

impl Permission {
    /// Every permission there is.
    pub const ALL: [Self; 7] = [
        Self::ReadMemories,
        Self::WriteMemories,
        Self::ReadClusters,
        Self::ManageOwnKeys,
        Self::ExecutePolicies,
        Self::ReadAudit,
        Self::ManageUsers,
    ];

    /// The name that a person reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadMemories => "memories:read",
            Self::WriteMemories => "memories:write",
            Self::ReadClusters => "clusters:read",
            Self::ManageOwnKeys => "keys:manage",
            Self::ExecutePolicies => "policies:execute",
            Self::ReadAudit => "audit:read",
            Self::ManageUsers => "users:manage",
        }
    }

    /// The permission called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl Permissions {
    /// The set that `bits` stands for, unless it has a bit that stands for no permission.
    pub fn from_bits(bits: u16) -> Option<Self> {
        let known = Permission::ALL.into_iter().fold(0, |known, each| known | each.bit());
        (bits & !known == 0).then_some(Self(bits))
    }

    /// The set as bits, for the assertion.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether `permission` is in the set.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// What is in both sets.
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all that is in this set is in the other.
    pub const fn is_within(self, other: Self) -> bool {
        self.within(other).0 == self.0
    }

    /// The permissions, in order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.contains(*permission))
    }

    /// Their names, in the same order.
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Permission::name).collect()
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl Role {
    /// Every role there is, the weakest first.
    pub const ALL: [Self; 3] = [Self::Readonly, Self::User, Self::Admin];

    /// The role called `name`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// The name on the wire and in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Readonly => "readonly",
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The one table of who may do what (the guide, "User Roles").
    pub const fn allows(self, permission: Permission) -> bool {
        match (self, permission) {
            (Self::Admin, _)
            | (Self::User | Self::Readonly, Permission::ReadMemories | Permission::ReadClusters)
            | (Self::User, Permission::WriteMemories | Permission::ManageOwnKeys) => true,
            (Self::User | Self::Readonly, _) => false,
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Roles {
    /// The set that `bits` stands for, unless it has a bit that stands for no role.
    pub fn from_bits(bits: u8) -> Option<Self> {
        let known = Role::ALL.into_iter().fold(0, |known, role| known | role.bit());
        (bits & !known == 0).then_some(Self(bits))
    }

    /// The set as bits, for the assertion.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether `role` is in the set.
    pub const fn contains(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Whether any role in the set allows `permission`.
    pub fn allow(self, permission: Permission) -> bool {
        self.iter().any(|role| role.allows(permission))
    }

    /// Everything that any role in the set allows.
    pub fn permissions(self) -> Permissions {
        Permission::ALL.into_iter().filter(|permission| self.allow(*permission)).collect()
    }

    /// The roles, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().rev().filter(move |role| self.contains(*role))
    }

    /// The strongest role, if there is any.
    pub fn strongest(self) -> Option<Role> {
        self.iter().next()
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Roles {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Roles {
    /// Reads an array of known names, each once. A bare string is refused: "administrator" once passed for one.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let roles = Vec::<Role>::deserialize(deserializer)?;
        let set: Self = roles.iter().copied().collect();
        if set.iter().count() != roles.len() {
            return Err(D::Error::custom("a role is named twice"));
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_guides() {
        let may = |role: Role| {
            Permission::ALL
                .into_iter()
                .filter(|permission| role.allows(*permission))
                .collect::<Vec<_>>()
        };

        assert_eq!(may(Role::Admin), Permission::ALL, "full access");
        assert_eq!(
            may(Role::User),
            [
                Permission::ReadMemories,
                Permission::WriteMemories,
                Permission::ReadClusters,
                Permission::ManageOwnKeys
            ],
            "own memories only"
        );
        assert_eq!(
            may(Role::Readonly),
            [Permission::ReadMemories, Permission::ReadClusters],
            "cannot create or modify"
        );
    }

    #[test]
    fn nobody_may_do_anything_without_a_role() {
        assert!(!Permission::ALL.into_iter().any(|permission| Roles::default().allow(permission)));
    }

    #[test]
    fn a_string_is_not_a_set_of_roles() {
        let read = serde_json::from_str::<Roles>;
        assert!(read(r#""administrator""#).is_err());
        assert!(read(r#"["administrator"]"#).is_err());
        assert!(read(r#"["user","user"]"#).is_err());
        assert_eq!(read(r#"["user","admin"]"#).unwrap().strongest(), Some(Role::Admin));
    }

    #[test]
    fn bits_that_name_no_role_are_refused() {
        assert_eq!(Roles::from_bits(0b1000), None);
        assert_eq!(Roles::from_bits(0b100), Some([Role::Admin].into_iter().collect()));
    }
}
