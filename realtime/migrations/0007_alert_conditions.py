"""A deviation's bounds move to the fields of a threshold; how it learns, to one field of JSON."""

from django.db import migrations, models

DEVIATION = 'deviation'
LEARNING = {'alpha': 0.05, 'samples': 30, 'least': 0.0}


def carry_over(apps, schema_editor):
    """Fill the new fields: rules go on to mean the same."""
    rules = apps.get_model('realtime', 'AlertRule').objects.using(schema_editor.connection.alias)
    for rule in rules.filter(condition=DEVIATION):
        learning = {name: getattr(rule, name) for name in LEARNING}
        rule.threshold, rule.clear = rule.factor, rule.clear_factor
        rule.learning = {
            name: value for name, value in learning.items() if value != LEARNING[name]
        }
        rule.save(update_fields=['threshold', 'clear', 'learning'])


def carry_back(apps, schema_editor):
    """Fill the fields that there were before."""
    rules = apps.get_model('realtime', 'AlertRule').objects.using(schema_editor.connection.alias)
    for rule in rules.filter(condition=DEVIATION):
        rule.factor = rule.threshold
        rule.clear_factor = rule.threshold * 2 / 3 if rule.clear is None else rule.clear
        for name, default in LEARNING.items():
            setattr(rule, name, rule.learning.get(name, default))
        rule.threshold = rule.clear = None
        rule.save()


class Migration(migrations.Migration):

    dependencies = [
        ('realtime', '0006_outbox'),
    ]

    operations = [
        migrations.AddField(
            model_name='alertrule',
            name='learning',
            field=models.JSONField(default=dict, editable=False),
        ),
        migrations.RunPython(carry_over, carry_back),
        migrations.RemoveField(
            model_name='alertrule',
            name='alpha',
        ),
        migrations.RemoveField(
            model_name='alertrule',
            name='clear_factor',
        ),
        migrations.RemoveField(
            model_name='alertrule',
            name='factor',
        ),
        migrations.RemoveField(
            model_name='alertrule',
            name='least',
        ),
        migrations.RemoveField(
            model_name='alertrule',
            name='samples',
        ),
        migrations.AlterField(
            model_name='aggregationrule',
            name='allowed_lateness',
            field=models.PositiveIntegerField(default=0, help_text='Seconds by which a message may be older than the newest one before it.'),
        ),
        migrations.AlterField(
            model_name='aggregationrule',
            name='name',
            field=models.SlugField(help_text='The rule in its results. Letters, digits, - and _.', max_length=64, unique=True),
        ),
        migrations.AlterField(
            model_name='aggregationrule',
            name='slide',
            field=models.PositiveIntegerField(blank=True, help_text='Seconds from the beginning of one window to that of the next; the window is a multiple of it. Empty: windows follow one another.', null=True),
        ),
        migrations.AlterField(
            model_name='alertrule',
            name='clear',
            field=models.FloatField(blank=True, help_text='The value, or for a deviation the number of standard deviations, at which the alert is resolved. Empty: the threshold; for a deviation two thirds of it.', null=True),
        ),
        migrations.AlterField(
            model_name='alertrule',
            name='condition',
            field=models.CharField(choices=[('above', 'above'), ('below', 'below'), ('deviation', 'deviation from the usual')], default='above', help_text="Usual is the exponentially weighted mean of a group's values; values that are out of bounds do not change it.", max_length=16),
        ),
        migrations.AlterField(
            model_name='alertrule',
            name='threshold',
            field=models.FloatField(help_text='For a deviation: the number of standard deviations, e.g. 3.', null=True),
        ),
        migrations.AlterField(
            model_name='alertrule',
            name='time_path',
            field=models.CharField(blank=True, help_text="The path of a message's own time, e.g. timestamp: RFC 3339, or seconds or milliseconds since 1970. Empty: when it was published.", max_length=256, verbose_name='time'),
        ),
    ]
