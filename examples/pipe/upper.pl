#!/usr/bin/env perl
# gm-work --pipe upper -- ./upper.pl     A job is a text; its result the same in capitals.
use strict;
use warnings;
use JSON::PP;

$| = 1;    # an answer must not wait in a buffer
while (my $line = <STDIN>) {
    my $job = decode_json($line);
    my $answer = eval {
        die { error => "no text", verdict => "dead" } unless defined $job->{data};
        { ok => JSON::PP::true, result => uc $job->{data}, extra => { length => length $job->{data} } };
    } || { ok => JSON::PP::false, ref $@ ? %{$@} : (error => "$@") };
    print encode_json($answer), "\n";
}
