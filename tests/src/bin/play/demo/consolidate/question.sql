select c.country,
       count(o.id)::varchar as orders,
       sum(o.amount)::varchar as ordered,
       sum(i.paid)::varchar as paid,
       sum(case when s.delivered then 1 else 0 end)::varchar as delivered
from shop.customers as c
join shop.orders as o on o.customer_id = c.id
left join billing.invoices as i on i.order_id = o.id
left join logistics.shipments as s on s.order_id = o.id
group by c.country
order by c.country
