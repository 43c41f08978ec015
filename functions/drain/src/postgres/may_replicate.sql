-- Whether the role may use replication slots.
(select r.rolsuper or r.rolreplication or exists (
   select from pg_roles m
   where m.rolname = 'rds_replication' and pg_has_role(current_user, m.oid, 'member'))
 from pg_roles r where r.rolname = current_user)
