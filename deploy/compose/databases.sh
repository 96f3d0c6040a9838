#!/bin/sh
# At the first start: a database per service, and a role that can open no other.
for db in inventory orders payments catalog accounts notifications; do
	psql -q -v ON_ERROR_STOP=1 -v db="$db" -v password="$SERVICES_PASSWORD" -U "${POSTGRES_USER:-postgres}" -d postgres <<-'SQL'
		CREATE ROLE :"db" LOGIN PASSWORD :'password';
		CREATE DATABASE :"db" OWNER :"db";
		REVOKE ALL ON DATABASE :"db" FROM PUBLIC;
	SQL
done
